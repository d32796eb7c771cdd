use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// Reports what happens to it.
struct Probe {
    events: Sender<&'static str>,
    alarm: Option<Duration>,
}

impl Source for Probe {
    fn on_ready(&mut self, _ready: Ready, _turn: &mut Turn<'_>) -> Next {
        self.events.send("ready").unwrap();
        Next::Keep
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        self.events.send("notify").unwrap();
        if let Some(alarm) = self.alarm.take() {
            turn.alarm_by(Instant::now() + alarm);
        } else {
            turn.again();
            flush_later(turn.id);
        }
        Next::Keep
    }

    fn on_timer(&mut self, _turn: &mut Turn<'_>) -> Next {
        self.events.send("timer").unwrap();
        panic!("a source that panics (expected in this test)");
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        self.events.send("flush").unwrap();
        Next::Close
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.events.send("dropped");
    }
}

fn add_probe(loops: &EventLoops, alarm: Option<Duration>) -> (SourceId, Receiver<&'static str>) {
    let (events, received) = mpsc::channel();
    let (id_to, id_from) = mpsc::channel();
    let build = Box::new(move |turn: &mut Turn<'_>| {
        id_to.send(turn.id).unwrap();
        Some(Box::new(Probe { events, alarm }) as Box<dyn Source>)
    });
    assert!(loops.pick().post(Post::Add(build)).is_ok());
    (id_from.recv_timeout(LONG).unwrap(), received)
}

fn notify(loops: &EventLoops, id: SourceId) {
    assert!(loops.pick().post(Post::Notify(id)).is_ok());
}

#[test]
fn a_source_is_called_flushed_and_dropped() {
    let loops = EventLoops::start(1, "test").unwrap();
    let (id, events) = add_probe(&loops, None);
    notify(&loops, id);
    for expected in ["notify", "flush", "dropped"] {
        assert_eq!(events.recv_timeout(LONG), Ok(expected));
    }
    assert!(
        events.recv_timeout(LONG).is_err(),
        "a dropped source is not called again"
    );
}

#[test]
fn a_late_message_does_not_reach_a_slots_next_tenant() {
    let loops = EventLoops::start(1, "test").unwrap();
    let (old, events) = add_probe(&loops, None);
    notify(&loops, old);
    while events.recv_timeout(LONG) != Ok("dropped") {}
    let (new, events) = add_probe(&loops, None);
    assert_eq!(old.slot, new.slot);
    assert_ne!(old, new);
    notify(&loops, old);
    drop(loops);
    assert_eq!(events.recv_timeout(LONG), Ok("dropped"));
}

#[test]
fn a_panicking_source_costs_itself_only() {
    let loops = EventLoops::start(1, "test").unwrap();
    let (panicking, its_events) = add_probe(&loops, Some(Duration::from_millis(1)));
    let (other, events) = add_probe(&loops, None);
    notify(&loops, panicking);
    for expected in ["notify", "timer", "dropped"] {
        assert_eq!(its_events.recv_timeout(LONG), Ok(expected));
    }
    notify(&loops, other);
    assert_eq!(events.recv_timeout(LONG), Ok("notify"));
}

/// Asks twice to go on, whenever it is notified.
struct Eager {
    events: Sender<&'static str>,
}

impl Source for Eager {
    fn on_ready(&mut self, _ready: Ready, turn: &mut Turn<'_>) -> Next {
        self.events.send("ready").unwrap();
        flush_later(turn.id);
        Next::Keep
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        turn.again();
        turn.again();
        Next::Keep
    }

    fn on_timer(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        self.events.send("flush").unwrap();
        Next::Keep
    }
}

/// Otherwise a busy source would gather ever more shares of a turn, to the others' cost.
#[test]
fn a_source_that_asks_twice_to_go_on_is_called_once() {
    let loops = EventLoops::start(1, "test").unwrap();
    let (events, received) = mpsc::channel();
    let (id_to, id_from) = mpsc::channel();
    let build = Box::new(move |turn: &mut Turn<'_>| {
        id_to.send(turn.id).unwrap();
        Some(Box::new(Eager { events }) as Box<dyn Source>)
    });
    assert!(loops.pick().post(Post::Add(build)).is_ok());
    notify(&loops, id_from.recv_timeout(LONG).unwrap());
    for expected in ["ready", "flush"] {
        assert_eq!(received.recv_timeout(LONG), Ok(expected));
    }
    drop(loops);
    assert!(received.recv_timeout(LONG).is_err(), "called once more");
}

/// Posts to its own loop more often than a turn delivers, then asks for a flush in a flush.
struct Restless {
    handle: Arc<LoopHandle>,
    notifies: u32,
    flushes: u32,
    done: Sender<()>,
}

impl Source for Restless {
    fn on_ready(&mut self, _ready: Ready, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        self.notifies += 1;
        if self.notifies < 50 {
            assert!(self.handle.post(Post::Notify(turn.id)).is_ok());
        } else {
            flush_later(turn.id);
        }
        Next::Keep
    }

    fn on_timer(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.flushes += 1;
        if self.flushes < 5 {
            flush_later(turn.id);
        } else {
            self.done.send(()).unwrap();
        }
        Next::Keep
    }
}

/// Always has something to do, and reports its share of each turn.
struct Busy {
    shares: SyncSender<(SourceId, Share)>,
}

impl Source for Busy {
    fn on_ready(&mut self, _ready: Ready, turn: &mut Turn<'_>) -> Next {
        turn.again();
        match self.shares.send((turn.id, turn.share)) {
            Ok(()) => Next::Keep,
            Err(_) => Next::Close,
        }
    }

    fn on_notify(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_timer(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }
}

#[test]
fn shares_are_large_for_a_source_alone_and_small_as_soon_as_there_are_two() {
    let loops = EventLoops::start(1, "test").unwrap();
    let (shares, received) = mpsc::sync_channel(0);
    let add = || {
        let shares = shares.clone();
        let build = Box::new(move |turn: &mut Turn<'_>| {
            turn.again();
            Some(Box::new(Busy { shares }) as Box<dyn Source>)
        });
        assert!(loops.pick().post(Post::Add(build)).is_ok());
    };
    add();
    let (first, _) = received.recv_timeout(LONG).unwrap();
    for _ in 0..3 {
        assert_eq!(received.recv_timeout(LONG), Ok((first, Share::ALONE)));
    }
    add();
    while received.recv_timeout(LONG).unwrap() == (first, Share::ALONE) {}
    let among_others = |_| received.recv_timeout(LONG).unwrap();
    let seen: Vec<_> = (0..4).map(among_others).collect();
    assert!(seen.iter().any(|&(id, _)| id == first), "both have turns");
    for (id, share) in seen {
        assert_ne!(share, Share::ALONE, "of {id:?}");
    }
}

#[test]
fn a_loop_does_not_sleep_on_what_its_own_sources_asked_for() {
    let loops = EventLoops::start(1, "test").unwrap();
    let handle = Arc::clone(loops.pick());
    let (done, received) = mpsc::channel();
    let on_loop = Arc::clone(&handle);
    let build = Box::new(move |turn: &mut Turn<'_>| {
        assert!(on_loop.post(Post::Notify(turn.id)).is_ok());
        let source = Restless {
            handle: on_loop,
            notifies: 0,
            flushes: 0,
            done,
        };
        Some(Box::new(source) as Box<dyn Source>)
    });
    assert!(handle.post(Post::Add(build)).is_ok());
    received.recv_timeout(LONG).expect("it came to its end");
}

/// Sets its alarm to the past whenever it rings, and is gone at the third time.
struct Overdue {
    events: Sender<&'static str>,
    rings: u32,
    past: Instant,
}

impl Source for Overdue {
    fn on_ready(&mut self, _ready: Ready, _turn: &mut Turn<'_>) -> Next {
        self.events.send("ready").unwrap();
        Next::Keep
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        turn.alarm_by(Instant::now());
        Next::Keep
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        self.events.send("timer").unwrap();
        self.rings += 1;
        if self.rings == 3 {
            return Next::Close;
        }
        turn.alarm_by(self.past);
        turn.again();
        Next::Keep
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }
}

/// Otherwise one source with an alarm in the past would keep the loop from all others.
#[test]
fn an_alarm_that_is_set_to_the_past_while_it_rings_waits_for_the_next_turn() {
    let loops = EventLoops::start(1, "test").unwrap();
    let (events, received) = mpsc::channel();
    let (id_to, id_from) = mpsc::channel();
    let build = Box::new(move |turn: &mut Turn<'_>| {
        id_to.send(turn.id).unwrap();
        let source = Overdue {
            events,
            rings: 0,
            past: Instant::now(),
        };
        Some(Box::new(source) as Box<dyn Source>)
    });
    assert!(loops.pick().post(Post::Add(build)).is_ok());
    notify(&loops, id_from.recv_timeout(LONG).unwrap());
    let events: Vec<_> = received.iter().collect();
    assert_eq!(events, ["timer", "ready", "timer", "ready", "timer"]);
}

/// Each post is delivered, whatever the interleaving with the loop's falling asleep.
#[test]
fn posts_of_many_threads_are_neither_lost_nor_wait_for_a_wake() {
    const THREADS: usize = 8;
    const POSTS: usize = 2_000;
    let loops = EventLoops::start(1, "test").unwrap();
    let (done, received) = mpsc::channel();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (loops, done) = (loops.clone(), done.clone());
            std::thread::spawn(move || {
                for i in 0..POSTS {
                    let done = done.clone();
                    let build = move |_: &mut Turn<'_>| {
                        done.send(()).unwrap();
                        None
                    };
                    assert!(loops.pick().post(Post::Add(Box::new(build))).is_ok());
                    if i % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for _ in 0..THREADS * POSTS {
        received.recv_timeout(LONG).expect("no post is lost");
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_loop_that_has_ended_gives_posts_back() {
    let loops = EventLoops::start(1, "test").unwrap();
    let handle = Arc::clone(loops.pick());
    let (_, events) = add_probe(&loops, None);
    drop(loops);
    assert_eq!(events.recv_timeout(LONG), Ok("dropped"));
    // The source is dropped just before the mailbox closes.
    while handle.post(Post::Stop).is_ok() {
        std::thread::yield_now();
    }
}
