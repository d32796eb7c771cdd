//! A disk in memory that fails when told to, for tests and for a simulator of whole clusters.
//!
//! It keeps apart what a program sees and what would survive a loss of power: written data until
//! the file's `sync_data`, changed names until the directory's `sync_dir`. [`SimDisk::crash`]
//! decides what becomes of the difference. Clones share one disk, so a test keeps one while the
//! storage under test works on the other.
//!
//! Directories themselves are durable at once, which real ones are after
//! [`create_dir`](Disk::create_dir).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, LockError, LockGuard};

/// The unit in which [`Crash::Random`] tears a write.
const SECTOR_BYTES: usize = 512;

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Only the process dies. What it wrote stays in memory, as little durable as before.
    Kill,
    /// Power fails; everything written had arrived.
    Kept,
    /// Power fails; nothing unsynced had arrived.
    Lost,
    /// Power fails; of the change numbered `n` (see [`SimDisk::pending`]), if the bit `n` is set,
    /// all had arrived, else nothing. From 64 on, nothing.
    Subset(u64),
    /// Power fails; everything had arrived except that of the last write there are only the first
    /// bytes.
    Torn {
        /// How many.
        last_write_bytes: usize,
    },
    /// Power fails; everything had arrived, except that of the last write only the file's new length
    /// is there. What the file shows beyond its old one was never written to it.
    Hollow(Filler),
    /// Power fails; each write had arrived whole, not at all, up to some byte, in some of its
    /// sectors, or only the length that it gave the file; each other change arrived or did not.
    /// Independently, from a seed.
    Random {
        /// Where the choices come from.
        seed: u64,
    },
}

/// What a file shows where its length reached the disk and its data did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filler {
    /// Zeros.
    Zeros,
    /// What the place held before: what was cut off from this file there, or of a file removed
    /// before this one was created.
    Stale,
    /// Bytes that nobody knows.
    Garbage,
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that no `sync_dir` covered, in order.
    renames: Vec<(u64, NameChange)>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    next_inode: u64,
    /// Numbers changes, across files.
    next_change: u64,
    /// Handles of an earlier life of the machine are dead.
    boots: u64,

    /// The content of a file that was removed: the next one that is created may take its place.
    freed: Vec<u8>,

    operations: u64,
    file_syncs: u64,
    hollow_writes: u64,
    power_off_at: Option<u64>,
    fail_sync_at: Option<u64>,
    capacity_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    medium: Medium,
    pending: Vec<(u64, Change)>,
}

#[derive(Clone, Debug, Default)]
struct Medium {
    durable: Vec<u8>,
    /// What is in the places that the file would take if it grew, by offset.
    beyond: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Unlink(PathBuf),
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops whatever uses the disk, decides what had arrived, and starts the machine, or only the
    /// process, anew: faults are over, old handles dead, locks free.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.state.lock();
        state.boots += 1;
        state.locks.clear();
        state.power_off_at = None;
        state.fail_sync_at = None;
        state.capacity_bytes = None;
        if crash != Crash::Kill {
            state.lose_power(crash);
        }
    }

    /// How many changes a loss of power would decide about, over all files and directories.
    #[must_use]
    pub fn pending(&self) -> usize {
        let state = self.state.lock();
        state.renames.len()
            + state
                .inodes
                .values()
                .map(|inode| inode.pending.len())
                .sum::<usize>()
    }

    /// Length of the last write that is not durable; zero if there is none.
    #[must_use]
    pub fn last_write_bytes(&self) -> usize {
        let state = self.state.lock();
        state.last_write().map_or(0, |(_, bytes)| bytes)
    }

    /// Operations so far that change the disk: each write, resize, sync, creation, renaming,
    /// removal counts one, those that fail too.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Calls of `sync_data` so far.
    #[must_use]
    pub fn file_syncs(&self) -> u64 {
        self.state.lock().file_syncs
    }

    /// Writes so far of which a loss of power left only the length; see [`Filler`].
    #[must_use]
    pub fn hollow_writes(&self) -> u64 {
        self.state.lock().hollow_writes
    }

    /// Lets `operations` more of them happen; then every one fails, until [`crash`](Self::crash).
    pub fn power_off_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.power_off_at = Some(state.operations + operations);
    }

    /// Whether the power that [`power_off_after`](Self::power_off_after) cuts is off: something has
    /// failed for it.
    #[must_use]
    pub fn is_off(&self) -> bool {
        let state = self.state.lock();
        state.power_off_at.is_some_and(|at| state.operations > at)
    }

    /// Makes the next sync but `syncs` fail, of a file or of a directory. As on Linux, what was
    /// written to the file stays visible, never becomes durable, and the sync after it succeeds.
    /// Names, which a file system keeps in a journal, are as durable after it as before.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state.lock().fail_sync_at = Some(syncs);
    }

    /// Bounds the sum of all files' lengths; `None` lifts the bound. A write that does not fit
    /// writes what fits, then fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// The sum of all files' lengths.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Changes one bit of a file, in memory and on the medium.
    ///
    /// # Panics
    /// If there is no such bit.
    pub fn flip_bit(&self, path: &Path, offset: usize, bit: u8) {
        let mut state = self.state.lock();
        let inode = state.inode_at(path).expect("a file to flip a bit of");
        inode.content[offset] ^= 1 << bit;
        if let Some(byte) = inode.medium.durable.get_mut(offset) {
            *byte ^= 1 << bit;
        }
    }

    /// Replaces a file's content, durably, or creates it.
    pub fn put(&self, path: &Path, content: &[u8]) {
        let mut state = self.state.lock();
        let number = state.new_inode();
        let inode = Inode {
            content: content.to_vec(),
            medium: Medium {
                durable: content.to_vec(),
                beyond: vec![],
            },
            pending: vec![],
        };
        state.inodes.insert(number, inode);
        state.names.insert(path.to_owned(), number);
        state.durable_names.insert(path.to_owned(), number);
    }

    /// Another disk in the same state: what is done to one does not show on the other. Handles
    /// and locks stay with this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.locks.clear();
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// All files and their content.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.lock();
        let content = |inode| state.inodes[inode].content.clone();
        state
            .names
            .iter()
            .map(|(path, inode)| (path.clone(), content(inode)))
            .collect()
    }
}

impl State {
    /// Counts an operation; fails once power is off.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.power_off_at {
            Some(at) if self.operations > at => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    fn sync_fails(&mut self) -> io::Result<()> {
        match &mut self.fail_sync_at {
            Some(0) => {
                self.fail_sync_at = None;
                Err(io::Error::other("the medium failed"))
            }
            Some(syncs) => {
                *syncs -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .map(|inode| self.inodes[inode].content.len() as u64)
            .sum()
    }

    /// How far a file of `len` bytes may grow towards `wanted`.
    fn growth_allowed(&self, len: usize, wanted: usize) -> usize {
        let Some(capacity) = self.capacity_bytes else {
            return wanted;
        };
        let free = capacity.saturating_sub(self.used_bytes());
        wanted.min(len.saturating_add(usize::try_from(free).unwrap_or(usize::MAX)))
    }

    fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    fn change_number(&mut self) -> u64 {
        self.next_change += 1;
        self.next_change
    }

    fn inode_at(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let number = self.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(self
            .inodes
            .get_mut(number)
            .expect("every name has its inode"))
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        let number = self.change_number();
        self.renames.push((number, change));
    }

    fn last_write(&self) -> Option<(u64, usize)> {
        let writes = self.inodes.values().flat_map(|inode| &inode.pending);
        writes
            .filter_map(|(number, change)| match change {
                Change::Write { data, .. } => Some((*number, data.len())),
                Change::Resize(_) => None,
            })
            .max()
    }

    fn lose_power(&mut self, crash: Crash) {
        let last_write = self.last_write().map(|(number, _)| number);
        let mut numbers: Vec<u64> = self.renames.iter().map(|(number, _)| *number).collect();
        for inode in self.inodes.values() {
            numbers.extend(inode.pending.iter().map(|(number, _)| *number));
        }
        numbers.sort_unstable();
        let fate = |number: u64, bytes: usize| match crash {
            Crash::Lost => Fate::Lost,
            Crash::Subset(mask) => {
                let position = numbers.binary_search(&number).unwrap_or(usize::MAX);
                if position < 64 && (mask >> position) & 1 == 1 {
                    Fate::Kept
                } else {
                    Fate::Lost
                }
            }
            Crash::Torn { last_write_bytes } if Some(number) == last_write => {
                Fate::UpTo(last_write_bytes)
            }
            Crash::Hollow(filler) if Some(number) == last_write => Fate::Hollow(filler),
            Crash::Kill | Crash::Kept | Crash::Torn { .. } | Crash::Hollow(_) => Fate::Kept,
            Crash::Random { seed } => Fate::random(seed ^ number.wrapping_mul(0x9e37_79b9), bytes),
        };
        for (number, change) in std::mem::take(&mut self.renames) {
            if fate(number, 0).keeps_all() {
                change.apply(&mut self.durable_names);
            }
        }
        self.names.clone_from(&self.durable_names);
        for inode in self.inodes.values_mut() {
            let old_len = inode.medium.durable.len();
            for (number, change) in std::mem::take(&mut inode.pending) {
                let fate = fate(number, change.bytes());
                if change.apply(&mut inode.medium, &fate, old_len) {
                    self.hollow_writes += 1;
                }
            }
            inode.content.clone_from(&inode.medium.durable);
        }
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|number, _| named.contains(number));
    }
}

/// What had arrived of a change.
enum Fate {
    Kept,
    Lost,
    UpTo(usize),
    /// Those sectors of which a bit drawn from this seed says so.
    Sectors(u64),
    /// Only the length that it gave the file.
    Hollow(Filler),
}

impl Fate {
    fn random(seed: u64, bytes: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        match rng.u8(..5) {
            0 => Self::Kept,
            1 => Self::Lost,
            2 => Self::UpTo(rng.usize(..=bytes)),
            3 => Self::Hollow(match rng.u8(..3) {
                0 => Filler::Zeros,
                1 => Filler::Stale,
                _ => Filler::Garbage,
            }),
            _ => Self::Sectors(rng.u64(..)),
        }
    }

    /// For changes that happen whole or not at all.
    fn keeps_all(&self) -> bool {
        matches!(self, Self::Kept | Self::UpTo(_) | Self::Hollow(_))
    }
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Self::Write { data, .. } => data.len(),
            Self::Resize(_) => 0,
        }
    }

    /// `old_len`: the file's durable length before a loss of power. Returns whether the file shows
    /// bytes that were never written to it.
    fn apply(&self, medium: &mut Medium, fate: &Fate, old_len: usize) -> bool {
        let content = &mut medium.durable;
        match self {
            Self::Resize(len) if fate.keeps_all() => {
                if let Some(cut_off) = content.get(*len..) {
                    write_into(&mut medium.beyond, *len, cut_off);
                }
                content.resize(*len, 0);
            }
            Self::Resize(_) => {}
            Self::Write { offset, data } => match *fate {
                Fate::Kept => write_into(content, *offset, data),
                Fate::Lost => {}
                Fate::UpTo(bytes) => write_into(content, *offset, &data[..bytes.min(data.len())]),
                Fate::Sectors(seed) => {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    // Sectors of the file, not of the write.
                    let mut at = 0;
                    while at < data.len() {
                        let sector_end = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
                        let end = data.len().min(at + sector_end);
                        if rng.bool() {
                            write_into(content, offset + at, &data[at..end]);
                        }
                        at = end;
                    }
                }
                Fate::Hollow(filler) => {
                    let (from, end) = ((*offset).max(old_len), offset + data.len());
                    for at in from..end {
                        let byte = match filler {
                            Filler::Zeros => 0,
                            Filler::Stale => medium.beyond.get(at).copied().unwrap_or(0),
                            Filler::Garbage => fastrand::Rng::with_seed(at as u64).u8(..),
                        };
                        write_into(content, at, &[byte]);
                    }
                    return from < end;
                }
            },
        }
        false
    }
}

fn write_into(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Link(path, _) | Self::Rename(_, path, _) | Self::Unlink(path)) = self;
        path.parent() == Some(dir)
    }
}

impl Disk for SimDisk {
    fn locate(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        state.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let in_dir = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.operate()?;
        let dir = path.parent().unwrap_or(Path::new(""));
        if dir != Path::new("") && !state.dirs.contains(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let inode = state.new_inode();
        let medium = Medium {
            durable: vec![],
            beyond: std::mem::take(&mut state.freed),
        };
        let empty = Inode {
            medium,
            ..Inode::default()
        };
        state.inodes.insert(inode, empty);
        state.change_name(NameChange::Link(path.to_owned(), inode));
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
            boot: state.boots,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state.lock();
        let inode = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
            boot: state.boots,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let inode = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let freed = state.inode_at(path)?.medium.durable.clone();
        state.freed = freed;
        state.change_name(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        state.sync_fails()?;
        let synced: Vec<_> = state
            .renames
            .extract_if(.., |(_, change)| change.is_in(dir))
            .collect();
        for (_, change) in synced {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>, LockError> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held {
                holder: "another process".to_owned(),
            });
        }
        Ok(Box::new(SimLock {
            disk: self.clone(),
            path: path.to_owned(),
            boot: state.boots,
        }))
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    boot: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.boots == self.boot {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    boot: u64,
}

impl SimFile {
    fn with<R>(&self, f: impl FnOnce(&mut State, u64) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.state.lock();
        if state.boots != self.boot {
            return Err(io::Error::other("the machine was restarted"));
        }
        f(&mut state, self.inode)
    }

    fn resize(&self, size: u64, may_shrink: bool) -> io::Result<()> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        self.with(|state, number| {
            state.operate()?;
            let len = state.inodes[&number].content.len();
            if size == len || (size < len && !may_shrink) {
                return Ok(());
            }
            if state.growth_allowed(len, size) < size {
                return Err(ErrorKind::StorageFull.into());
            }
            let change = state.change_number();
            let inode = state
                .inodes
                .get_mut(&number)
                .expect("an open file has its inode");
            inode.content.resize(size, 0);
            inode.pending.push((change, Change::Resize(size)));
            Ok(())
        })
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|state, inode| Ok(state.inodes[&inode].content.len() as u64))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state, inode| {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            let there = state.inodes[&inode]
                .content
                .get(offset..)
                .and_then(|rest| rest.get(..buffer.len()))
                .ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(there);
            Ok(())
        })
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, number| {
            state.operate()?;
            let len = state.inodes[&number].content.len();
            let end = state.growth_allowed(len, offset + data.len());
            let fits = data.len().min(end.saturating_sub(offset));
            let change = state.change_number();
            let inode = state
                .inodes
                .get_mut(&number)
                .expect("an open file has its inode");
            write_into(&mut inode.content, offset, &data[..fits]);
            inode.pending.push((
                change,
                Change::Write {
                    offset,
                    data: data[..fits].to_vec(),
                },
            ));
            if fits < data.len() {
                Err(ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        })
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.resize(size, false)
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.resize(size, true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, number| {
            state.operate()?;
            state.file_syncs += 1;
            let failed = state.sync_fails();
            let inode = state
                .inodes
                .get_mut(&number)
                .expect("an open file has its inode");
            let pending = std::mem::take(&mut inode.pending);
            failed?;
            let old_len = inode.medium.durable.len();
            for (_, change) in pending {
                change.apply(&mut inode.medium, &Fate::Kept, old_len);
            }
            Ok(())
        })
    }
}
