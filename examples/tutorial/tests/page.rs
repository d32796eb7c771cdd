//! `docs/tutorial.md` is true: its code stands in this crate's files, and its sessions go as shown.
//! So does our code in `docs/coming-from.md`.
//!
//! A block of a page says in its first line what it is: `rust src/lib.rs` is a passage of that
//! file, word for word but for a common indentation; `console` is a session, of commands (`$ `),
//! what they print to their standard output, and `^C` for the server that was started last.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "says what it skipped")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

const TUTORIAL: &str = include_str!("../../../docs/tutorial.md");
const COMING_FROM: &str = include_str!("../../../docs/coming-from.md");

struct Block {
    /// What follows the three backticks.
    kind: &'static str,
    lines: Vec<&'static str>,
    /// Of the page, from 1.
    line: usize,
}

fn blocks(page: &'static str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(kind), None) => {
                open = Some(Block {
                    kind,
                    lines: Vec::new(),
                    line: index + 1,
                });
            }
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

#[test]
fn every_block_of_code_is_a_passage_of_its_file() {
    let mut passages = 0;
    for block in blocks(TUTORIAL) {
        let line = block.line;
        if let Some((_, file)) = block.kind.split_once(' ') {
            assert_is_passage(&block, file, "tutorial.md");
            passages += 1;
        } else {
            let needed = "every block is a session, or names its file as in ```rust src/lib.rs";
            assert_eq!(block.kind, "console", "tutorial.md:{line}: {needed}");
        }
    }
    assert!(passages > 10, "the page has only {passages} passages");
    // There the blocks without a file are other people's code.
    for block in blocks(COMING_FROM) {
        if let Some((_, file)) = block.kind.split_once(' ') {
            assert_is_passage(&block, file, "coming-from.md");
        }
    }
}

fn assert_is_passage(block: &Block, file: &str, page: &str) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines: Vec<&str> = text.lines().collect();
    let mut windows = lines.windows(block.lines.len());
    let stands_there = windows.any(|window| without_indentation(window) == block.lines);
    let line = block.line;
    assert!(
        stands_there,
        "{page}:{line}: not (any more) a passage of {file}"
    );
}

/// The lines, shifted to the left together.
fn without_indentation<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let spaces = |line: &&str| line.len() - line.trim_start().len();
    let written = lines.iter().filter(|line| !line.is_empty());
    let common = written.map(spaces).min().unwrap_or(0);
    let shifted = lines.iter().map(|line| line.get(common..).unwrap_or(""));
    shifted.collect()
}

/// A program that was started and has not ended.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the page's sessions have come to.
#[derive(Default)]
struct Session {
    servers: Vec<Running>,
    /// A command that was started with `&`, until `wait`.
    background: Option<Running>,
    /// Addresses of the page, and where their servers really are: the system chooses the ports.
    addrs: HashMap<String, String>,
    /// Where `cert.pem` and `key.pem` are.
    certificates: Option<TempDir>,
}

#[test]
fn every_session_goes_as_shown() {
    let mut session = Session::default();
    let mut commands = 0;
    for block in blocks(TUTORIAL)
        .iter()
        .filter(|block| block.kind == "console")
    {
        let mut lines = block.lines.iter().peekable();
        while let Some(command) = lines.next() {
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ") && **line != "^C") {
                expected.push(*line);
            }
            let printed = match command.strip_prefix("$ ") {
                Some("wait") => session.wait(),
                Some(command) if command.starts_with("curl -s http://") => session.get(command),
                Some(command) if command.starts_with("kvctl ") => match session.kvctl(command) {
                    Some(printed) => printed,
                    None => continue,
                },
                Some(command) => session.run(command),
                None => session.interrupt(),
            };
            let printed: Vec<_> = printed.lines().map(steady).collect();
            let expected: Vec<_> = expected.into_iter().map(steady).collect();
            let line = block.line;
            assert_eq!(printed, expected, "{command}, docs/tutorial.md:{line}");
            commands += 1;
        }
    }
    assert!(commands > 15, "the page has only {commands} commands");
    assert!(
        session.servers.is_empty(),
        "the page leaves a server behind"
    );
}

/// A line without what differs from run to run: how many milliseconds.
fn steady(line: &str) -> String {
    let words = line.split(' ').collect::<Vec<_>>();
    let mut steady = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let counts_ms = words.get(index + 1).is_some_and(|unit| *unit == "ms");
        steady.push(if counts_ms { "N" } else { word });
    }
    steady.join(" ")
}

impl Session {
    /// Runs `[NAME=VALUE ...] cargo run --bin PROGRAM ARG ...` and returns what it printed; of a
    /// server, or with `&` at its end, the first line, and it goes on.
    fn run(&mut self, command: &str) -> String {
        let (command, in_background) = match command.strip_suffix(" &") {
            Some(command) => (command, true),
            None => (command, false),
        };
        let (variables, run) = command.split_once("cargo run --bin ").unwrap();
        let mut words = run.split(' ').map(|word| word.trim_matches('"'));
        let program = words.next().unwrap();
        let is_server = program.ends_with("_server");
        let mut args: Vec<_> = words.map(str::to_owned).collect();
        let shown = args[0].clone();
        for (index, arg) in args.iter_mut().enumerate() {
            if is_server && index == 0 {
                "127.0.0.1:0".clone_into(arg);
            } else if let Some(addr) = self.addrs.get(arg) {
                addr.clone_into(arg);
            }
        }
        let mut process = Command::new(path_of(program));
        process
            .args(args)
            .envs(variables.split_whitespace().map(|set| self.variable(set)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if !is_server && !in_background {
            let output = process.output().unwrap();
            return self.as_shown(&String::from_utf8(output.stdout).unwrap());
        }
        let mut child = process.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let started = Running { child, stdout };
        if is_server {
            let addr = line.trim().rsplit(' ').next().unwrap();
            self.addrs.insert(shown, addr.to_owned());
            self.servers.push(started);
        } else {
            self.background = Some(started);
        }
        self.as_shown(&line)
    }

    /// Waits for the end of the command that was started with `&`, and returns what it still prints.
    fn wait(&mut self) -> String {
        let mut command = self.background.take().unwrap();
        let mut rest = String::new();
        command.stdout.read_to_string(&mut rest).unwrap();
        command.child.wait().unwrap();
        rest
    }

    /// One `NAME=VALUE`; names of certificates become those of real ones.
    fn variable<'a>(&mut self, set: &'a str) -> (&'a str, OsString) {
        let (name, value) = set.split_once('=').unwrap();
        let is_file = Path::new(value).extension().is_some_and(|end| end == "pem");
        if !is_file {
            return (name, value.into());
        }
        let dir = self.certificates.get_or_insert_with(|| {
            let dir = TempDir::new().unwrap();
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
            fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
            dir
        });
        (name, dir.path().join(value).into())
    }

    /// The body of `curl -s http://ADDR/PATH`.
    fn get(&self, command: &str) -> String {
        let url = command.strip_prefix("curl -s http://").unwrap();
        let (addr, path) = url.split_once('/').unwrap();
        let mut socket = TcpStream::connect(&self.addrs[addr]).unwrap();
        write!(socket, "GET /{path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// What `kvctl` prints; `None` if it was not built: it belongs to another crate.
    fn kvctl(&self, command: &str) -> Option<String> {
        let program = Path::new(path_of("quotes_server")).with_file_name("kvctl");
        if !program.exists() {
            eprintln!("SKIPPED: {command} ({} was not built)", program.display());
            return None;
        }
        let words = command
            .split(' ')
            .skip(1)
            .map(|word| word.trim_matches('\''));
        let args = words.map(|word| self.addrs.get(word).map_or(word, String::as_str));
        let output = Command::new(program).args(args).output().unwrap();
        Some(self.as_shown(&String::from_utf8(output.stdout).unwrap()))
    }

    /// Ends the server that was started last, and returns what it still prints. By SIGTERM: a shell has
    /// what it runs in the background ignore the signal of ^C.
    fn interrupt(&mut self) -> String {
        let mut server = self.servers.pop().unwrap();
        let kill = format!("kill -TERM {}", server.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let mut rest = String::new();
        server.stdout.read_to_string(&mut rest).unwrap();
        server.child.wait().unwrap();
        rest
    }

    fn as_shown(&self, printed: &str) -> String {
        let mut text = printed.to_owned();
        #[expect(clippy::iter_over_hash_type, reason = "no address is part of another")]
        for (shown, addr) in &self.addrs {
            text = text.replace(addr, shown);
        }
        text
    }
}

fn path_of(program: &str) -> &'static str {
    match program {
        "hello_server" => env!("CARGO_BIN_EXE_hello_server"),
        "hello_client" => env!("CARGO_BIN_EXE_hello_client"),
        "quotes_server" => env!("CARGO_BIN_EXE_quotes_server"),
        "quotes_client" => env!("CARGO_BIN_EXE_quotes_client"),
        other => panic!("the crate has no program {other}"),
    }
}
