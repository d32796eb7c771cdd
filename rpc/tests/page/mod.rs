//! The worked examples of `docs/wire.md`, as frames.
//!
//! ```text
//! ### Title
//! -> 04                    a caller's frame begins; hexadecimal digits up to the first other word
//!    20 01                 and goes on
//! <- 02 08 01              a server's
//!
//!    ...                   nothing goes on after a blank line
//! ```

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(dead_code, reason = "each test uses its own part")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

const PAGE: &str = include_str!("../../../docs/wire.md");

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Caller,
    Server,
}

/// One frame, or a legacy reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub sender: Sender,
    pub bytes: Vec<u8>,
    /// Of the page, from 1.
    pub line: usize,
}

/// One conversation on one connection.
#[derive(Clone, Debug)]
pub struct Example {
    pub title: &'static str,
    pub steps: Vec<Step>,
}

/// All examples, in the order of the page.
pub fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut in_block = false;
    let mut open = false;
    for (index, line) in PAGE.lines().enumerate() {
        if let Some(title) = line.strip_prefix("### ") {
            examples.push(Example {
                title,
                steps: Vec::new(),
            });
        } else if line.starts_with("```") {
            in_block = !in_block;
            open = false;
        }
        let Some(example) = examples.last_mut().filter(|_| in_block) else {
            continue;
        };
        let (arrow, rest) = (line.get(..3), line.get(3..).unwrap_or_default());
        if let Some("-> " | "<- ") = arrow {
            open = true;
            example.steps.push(Step {
                sender: if line.starts_with('-') {
                    Sender::Caller
                } else {
                    Sender::Server
                },
                bytes: Vec::new(),
                line: index + 1,
            });
        } else if line.is_empty() {
            open = false;
        }
        let hex = rest.split_whitespace().map_while(byte);
        if open {
            example.steps.last_mut().unwrap().bytes.extend(hex);
        } else {
            assert_eq!(
                hex.count(),
                0,
                "line {}: bytes that belong to no frame",
                index + 1
            );
        }
    }
    examples
}

fn byte(word: &str) -> Option<u8> {
    let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_one = word.len() == 2 && word.bytes().all(lower);
    is_one.then(|| u8::from_str_radix(word, 16).unwrap())
}
