//! House rules that the compiler cannot check. Each message says what to do.

use std::fs;
use std::path::Path;

/// What the logic must not name, and what it uses instead. Its own tests may.
const FORBIDDEN_IN_LOGIC: &[(&str, &str)] = &[
    ("Instant::now", "time comes with each input"),
    ("SystemTime", "time comes with each input"),
    ("std::thread", "whoever calls owns the threads"),
    ("Mutex", "one caller at a time owns the logic"),
    ("atomic", "one caller at a time owns the logic"),
    ("TcpStream", "requests leave as Action::Ask"),
    ("RpcChannel", "requests leave as Action::Ask"),
    ("Stub", "requests leave as Action::Ask"),
    ("HashMap", "its order differs from run to run"),
    ("HashSet", "its order differs from run to run"),
    ("Rng::new", "randomness is handed over"),
    ("println", "say it with tracing"),
];

/// The simulator of whole clusters runs it, and the same seed must be the same run.
#[test]
fn the_logic_names_no_clock_thread_or_socket() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/logic");
    let mut findings = Vec::new();
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in (1..).zip(code.lines()) {
            let source = line.split("//").next().unwrap();
            for (name, instead) in FORBIDDEN_IN_LOGIC {
                if source.contains(name) {
                    let file = path.file_name().unwrap().display();
                    findings.push(format!("logic/{file}:{number}: names {name}; {instead}"));
                }
            }
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
