//! Situations that a run should meet, by name, and how often it did.

macro_rules! situations {
    ($($name:ident = $text:literal,)*) => {
        /// A rare situation. That a run met it proves that its faults bite.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each says what it is in `text()`")]
        pub enum Situation { $($name,)* }

        impl Situation {
            /// All of them.
            pub const ALL: &[Situation] = &[$(Situation::$name,)*];

            /// What it is.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Situation::$name => $text,)* }
            }
        }
    };
}

situations! {
    ConflictOverwritten = "a conflicting suffix is overwritten",
    OlderTermCommitted = "an older term's entry is committed by a newer one (Fig. 8)",
    TornTail = "a torn tail is cut off at a restart",
    VoteLostInCrash = "a vote or term is lost in a crash before it was told to anybody",
    CrashBeforeSync = "a crash between a write and its sync",
    PowerLostMidWrite = "power is lost in the middle of an operation of the disk",
    HollowTail = "a crash leaves a file longer, with bytes that were never written to it",
    LeaderCrashed = "the leader crashes",
    AllDown = "all nodes are down at once",
    SnapshotTaken = "a node takes a snapshot of its own",
    SnapshotRetried = "a snapshot for which there was no space is taken later",
    SnapshotInstalled = "a follower installs a snapshot",
    SnapshotInPartition = "a snapshot is installed while links are cut",
    TransferCrashed = "a transfer of a snapshot is interrupted by a crash",
    TransferResumed = "a transfer of a snapshot goes on where an earlier one broke",
    LogReset = "a snapshot replaces a log that it contradicts, or that ends before it",
    DeposedWithReads = "a leader is deposed while reads wait",
    DeposedWithProposals = "a leader is deposed while proposals wait",
    TwoLeaders = "two nodes lead at once, in different terms",
    QuorumLost = "a leader hears no majority and steps down (CheckQuorum)",
    SplitVote = "a candidacy ends without a leader",
    PreVoteRefused = "a pre-vote is refused beside a live leader",
    OldTermHeard = "a message of an older term arrives",
    Rejected = "an append does not match and is refused",
    CommittedByOthers = "an entry is committed before the leader's own disk has it",
    DiskHung = "a disk hangs until its leader resigns",
    SyncFailed = "a sync fails, and the process ends",
    DiskFull = "a disk is full",
    FullLeaderRefuses = "a leader whose disk is full refuses a write",
    FullLeaderResigned = "a leader whose disk is full resigns, for the others have all that it took",
    StalledLeaderRefuses = "a leader refuses a write, for no majority stores what it sends",
    FollowerFull = "a follower's log is at its bound, and it takes no entries",
    ClockLeapt = "a clock leaps forward",
    LeaderPaused = "a leader is paused for longer than an election timeout",
    OneWayCut = "a leader is elected while links are cut one way",
    Repeated = "a repeated request is recognised",
    RepeatedElsewhere = "a repeated request is recognised under another leader",
    SessionExpired = "a request of an expired session is refused",
    UnknownTookEffect = "a write that was given up takes effect",
    UnknownTookNone = "a write that was given up never takes effect",
    CertainlyNotDone = "a clerk calls a write certainly not done, for no node took it",
    NoRoomInSession = "a clerk calls a write certainly not done, for want of room",
    ExpiredUnknown = "a clerk cannot tell what a write did, for its session expired",
    SessionReopened = "a clerk whose session expired opens another",
    SeveralInFlight = "several writes of one session are under way when their leader is deposed",
    MemberLearned = "a clerk learns of a member that it was not told of",
    FollowerRead = "a follower answers a read",
    LeaseRead = "a read is answered by a lease",
    LeaseOver = "a lease is over, and a read asks a majority",
    TransferDone = "leadership is handed over",
    TransferFailed = "a handover comes to nothing",
    ReadInTransfer = "a read is asked for during a handover",
    RefusedInTransfer = "a proposal is refused during a handover",
    LearnerAdded = "a learner joins",
    LearnerPromoted = "a learner becomes a voter",
    VoterRemoved = "a voter is removed",
    VoterReplaced = "a voter is replaced",
    LeaderRemoved = "a leader removes itself and hands over",
    ChangeRefused = "a change that would lose the quorum is refused",
    JointCrash = "a node crashes while a change of voters is under way",
    JointElection = "a leader is elected while a change of voters is under way",
    MembershipOverwritten = "a membership is overwritten before it was committed",
    SnapshotInChange = "a snapshot is taken or installed while a change of voters is under way",
    NewcomerBySnapshot = "a newcomer learns the members from a snapshot",
}

/// How often each situation was met.
#[derive(Clone, Debug)]
pub struct Coverage {
    counts: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            counts: vec![0; Situation::ALL.len()],
        }
    }
}

impl Coverage {
    pub(crate) fn met(&mut self, situation: Situation) {
        self.counts[situation as usize] += 1;
    }

    /// How often it was met.
    #[must_use]
    pub fn count(&self, situation: Situation) -> u64 {
        self.counts[situation as usize]
    }

    /// Adds what another run met.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }
}
