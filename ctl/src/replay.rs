//! `replay`: a node's recorded run, through the same core once more.

use std::io::{self, BufWriter, Write};
use std::panic;

use raft::core::{Input, LogId, NodeId, Role, State};
use raft::record::{Event, Replay, ReplayError};
use serde_json::{Value, json};

use crate::args::ReplayArgs;
use crate::failure::Failure;

/// How a run ended, as far as its record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    InOrder,
    CutOff,
    /// Nothing is said: the next file goes on.
    Open,
}

pub(crate) fn replay(args: ReplayArgs) -> Result<(), Failure> {
    let ReplayArgs { files, from, json } = args;
    // A panic of the core comes back as an error, with its text.
    panic::set_hook(Box::new(|_| {}));
    let mut out = BufWriter::new(io::stdout().lock());
    if !json {
        let headings = [
            "step", "role", "term", "leader", "last", "durable", "commit", "applied",
        ];
        line(&mut out, &columns(headings, "input"))?;
    }
    let (mut steps, mut end) = (0_u64, End::Open);
    let mut last = None;
    for event in Replay::open(files).map_err(|error| told(&error))? {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                // What led there is what its reader wants to see first.
                out.flush().map_err(|error| Failure::output(&error))?;
                return Err(told(&error));
            }
        };
        if let Event::Step { number, state, .. } = &event {
            steps += 1;
            end = End::Open;
            last = Some(*state);
            if *number < from {
                continue;
            }
        }
        end = match &event {
            Event::Ended => End::InOrder,
            Event::CutOff => End::CutOff,
            _ => end,
        };
        let text = if json {
            as_json(&event).to_string()
        } else {
            as_text(&event)
        };
        line(&mut out, &text)?;
    }
    if !json {
        let how = match end {
            End::InOrder => "the node was stopped in order",
            End::CutOff | End::Open => "the record ends there without a word of the node",
        };
        let last = last.map_or(String::new(), |state| format!(", to {}", summary(&state)));
        line(
            &mut out,
            &format!("{steps} steps as they were{last}; {how}"),
        )?;
    }
    out.flush().map_err(|error| Failure::output(&error))
}

fn told(error: &ReplayError) -> Failure {
    match error {
        ReplayError::Differs {
            step,
            recorded,
            replayed,
            effects,
            replayed_effects,
        } => Failure::Failed(format!(
            "step {step} is not as it was: it was {} with {effects} effects, now it is {} with {replayed_effects}",
            summary(recorded),
            summary(replayed),
        )),
        error => Failure::Failed(error.to_string()),
    }
}

fn as_text(event: &Event) -> String {
    match event {
        Event::Started { node, state } => {
            row("0", state, &format!("node {node} starts, as restored"))
        }
        Event::Began {
            node,
            step,
            lost,
            confirmed,
            state,
        } => {
            let hole = match lost {
                0 => String::new(),
                lost => format!("; the {lost} inputs before it were not recorded"),
            };
            let confirmed = if *confirmed {
                ", the state that was replayed"
            } else {
                ""
            };
            let text = format!("node {node} goes on in a file of its own{confirmed}{hole}");
            row(&step.to_string(), state, &text)
        }
        Event::Step {
            number,
            input,
            state,
        } => row(&number.to_string(), state, &input.to_string()),
        Event::Ended => "the node stops in order".to_owned(),
        _ => "the record is cut off".to_owned(),
    }
}

fn row(step: &str, state: &State, text: &str) -> String {
    columns(
        [
            step,
            role(state.role),
            &state.term.to_string(),
            &node(state.leader),
            &state.last_log.to_string(),
            &state.durable.to_string(),
            &state.commit_index.to_string(),
            &state.last_applied.to_string(),
        ],
        text,
    )
}

fn columns(state: [&str; 8], input: &str) -> String {
    let [step, role, term, leader, last, durable, commit, applied] = state;
    format!(
        "{step:>8}  {role:<13} {term:>4}  {leader:<6} {last:>10} {durable:>8} {commit:>8} {applied:>8}  {input}"
    )
}

fn summary(state: &State) -> String {
    format!(
        "{} in term {} (vote {}, leader {}), log up to {} (durable {}), commit {}, applied {}, snapshot {}, members of entry {}",
        role(state.role),
        state.term,
        node(state.voted_for),
        node(state.leader),
        state.last_log,
        state.durable,
        state.commit_index,
        state.last_applied,
        state.snapshot,
        state.membership_index,
    )
}

fn as_json(event: &Event) -> Value {
    match event {
        Event::Started { node, state } => {
            json!({ "event": "started", "node": node.get(), "step": 0, "state": state_json(state) })
        }
        Event::Began {
            node,
            step,
            lost,
            confirmed,
            state,
        } => json!({
            "event": "began", "node": node.get(), "step": step, "lost": lost,
            "confirmed": confirmed, "state": state_json(state),
        }),
        Event::Step {
            number,
            input,
            state,
        } => step_json(*number, input, state),
        Event::Ended => json!({ "event": "ended" }),
        _ => json!({ "event": "cut-off" }),
    }
}

fn step_json(number: u64, input: &Input, state: &State) -> Value {
    json!({
        "event": "step", "step": number, "input": input.name(), "text": input.to_string(),
        "state": state_json(state),
    })
}

fn state_json(state: &State) -> Value {
    let id = |id: LogId| json!({ "index": id.index.get(), "term": id.term.get() });
    json!({
        "role": role(state.role), "term": state.term.get(),
        "voted_for": state.voted_for.map(NodeId::get), "leader": state.leader.map(NodeId::get),
        "last_log": id(state.last_log), "durable": state.durable.get(),
        "commit_index": state.commit_index.get(), "last_applied": state.last_applied.get(),
        "snapshot": id(state.snapshot), "membership_index": state.membership_index.get(),
    })
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

fn node(node: Option<NodeId>) -> String {
    node.map_or("-".to_owned(), |node| format!("n{node}"))
}

fn line(out: &mut impl Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{line}").map_err(|error| Failure::output(&error))
}
