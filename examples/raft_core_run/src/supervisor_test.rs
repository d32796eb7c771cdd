//! The watch over nodes, with shell scripts as the nodes.

use super::*;
use crate::output::tests::Page;

/// A supervisor over shell scripts; its lines of both streams are on one page.
struct Scripts {
    supervisor: Supervisor,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    page: Page,
}

impl Scripts {
    fn start(scripts: &[&str]) -> Scripts {
        let page = Page::default();
        let output = Output::start(page.clone(), page.clone()).unwrap();
        let (events, inbox) = bounded(QUEUE_EVENTS);
        let mut supervisor = Supervisor::new("run --node I".to_owned(), output, events.clone());
        for script in scripts {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            supervisor.start(command).unwrap();
        }
        Scripts {
            supervisor,
            events,
            inbox,
            page,
        }
    }

    fn supervise(self) -> (Result<(), Failure>, String) {
        let output = self.supervisor.output.clone();
        let outcome = self
            .supervisor
            .supervise(&self.inbox, |node, term| format!("ready {node} {term}"));
        output.flush();
        (outcome, self.page.text())
    }
}

#[test]
fn each_death_is_reported_after_the_nodes_last_words() {
    let (outcome, text) =
        Scripts::start(&["echo out; echo err >&2; exit 3", "kill -9 $$"]).supervise();
    assert!(
        matches!(outcome, Err(Failure::Failed(_))),
        "nobody asked them to end: {outcome:?}"
    );
    let lines: Vec<&str> = text.lines().collect();
    let place = |line: &str| lines.iter().position(|printed| printed.starts_with(line));
    let died = place("node 0 died: exit code 3; ").expect(&text);
    assert!(
        place("[node 0] out").is_some_and(|said| said < died),
        "{text}"
    );
    assert!(
        place("[node 0] err").is_some_and(|said| said < died),
        "{text}"
    );
    assert!(
        place("node 1 died: killed by signal 9 (SIGKILL)").is_some(),
        "{text}"
    );
    assert!(text.contains("`run --node 1` brings it back"), "{text}");
}

/// A process can be gone while its last words are still on the way.
#[test]
fn a_death_is_reported_once_all_its_output_is_printed() {
    let mut scripts = Scripts::start(&["exit 3"]);
    scripts.supervisor.nodes[0].child.wait().unwrap();
    scripts.supervisor.reap();
    assert_eq!(
        scripts.supervisor.nodes[0].ended, None,
        "its pipes have not ended yet"
    );
    let (_, text) = scripts.supervise();
    assert!(text.contains("node 0 died: exit code 3"), "{text}");
}

#[test]
fn a_stop_ends_the_nodes_by_ending_their_input() {
    let scripts = Scripts::start(&["cat; echo bye", "cat; exit 7"]);
    scripts.events.send(Event::Signal).unwrap();
    let (outcome, text) = scripts.supervise();
    assert_eq!(outcome, Ok(()));
    assert!(text.contains("[node 0] stop 2\n"), "{text}");
    assert!(text.contains("[node 0] bye\n"), "{text}");
    assert!(text.contains("node 1 stopped: exit code 7\n"), "{text}");
}

/// A node that the end of its input does not end.
const DEAF: &str = "exec sleep 600";

#[test]
fn a_second_signal_kills_at_once() {
    let mut scripts = Scripts::start(&[DEAF]);
    let now = Instant::now();
    scripts.supervisor.stop_or_kill(now);
    scripts.supervisor.stop_or_kill(now + SAME_REQUEST);
    let (outcome, text) = scripts.supervise();
    assert_eq!(outcome, Ok(()));
    assert!(
        text.contains("killed node 0: a second signal came\n"),
        "{text}"
    );
    assert!(
        text.contains("node 0 stopped: killed by signal 9 (SIGKILL)\n"),
        "{text}"
    );
}

/// timeout(1) signals its command and then the group, command included.
#[test]
fn one_request_that_arrives_twice_kills_nothing() {
    let mut scripts = Scripts::start(&["cat >/dev/null; exit 7"]);
    let now = Instant::now();
    for after_ms in [0, 0, 249] {
        let at = now + Duration::from_millis(after_ms);
        scripts.supervisor.stop_or_kill(at);
    }
    let (outcome, text) = scripts.supervise();
    assert_eq!(outcome, Ok(()));
    assert!(
        text.ends_with("stopping 1 node; another signal kills\nnode 0 stopped: exit code 7\n"),
        "{text}"
    );
}

#[test]
fn a_node_that_does_not_stop_is_killed_in_the_end() {
    let mut scripts = Scripts::start(&[DEAF]);
    let asked_at = Instant::now();
    scripts.supervisor.stop_or_kill(asked_at);
    assert_eq!(scripts.supervisor.lose_patience(asked_at), None);
    let kill_at = asked_at + STOP_PATIENCE;
    assert_eq!(
        scripts.supervisor.lose_patience(kill_at),
        None,
        "killing takes a moment"
    );
    let gave_up = scripts.supervisor.lose_patience(kill_at + KILL_PATIENCE);
    assert!(
        matches!(gave_up, Some(Failure::Failed(_))),
        "no wait is without end"
    );

    let (outcome, text) = scripts.supervise();
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        text.matches("killed node 0: it did not stop within 5 s\n")
            .count(),
        1,
        "{text}"
    );
    assert!(
        text.contains("node 0 stopped: killed by signal 9 (SIGKILL)\n"),
        "{text}"
    );
}

#[test]
fn a_flood_of_lines_holds_nothing_up() {
    let flood = "yes 'a line of some length' | head -n 20000; yes x | head -n 20000 >&2";
    let (outcome, text) = Scripts::start(&[flood, flood]).supervise();
    assert!(outcome.is_err());
    for node in 0..2 {
        let whole = format!("[node {node}] a line of some length");
        assert_eq!(text.lines().filter(|line| *line == whole).count(), 20_000);
    }
}

#[test]
fn news_is_printed_unless_the_cluster_is_being_stopped() {
    let scripts = Scripts::start(&["cat", "exit 1"]);
    let ready = News::Ready { node: 0, term: 4 };
    scripts.events.send(Event::News(ready.clone())).unwrap();
    scripts
        .events
        .send(Event::News(News::NotReady(vec![
            "silent".to_owned(),
            "silent".to_owned(),
        ])))
        .unwrap();
    scripts.events.send(Event::Signal).unwrap();
    scripts.events.send(Event::News(ready)).unwrap();
    let (outcome, text) = scripts.supervise();
    assert_eq!(outcome, Ok(()));
    assert_eq!(text.matches("ready 0 4\n").count(), 1, "{text}");
    assert!(
        text.contains("still no leader, waiting on: node 0: silent; node 1: "),
        "{text}"
    );
}
