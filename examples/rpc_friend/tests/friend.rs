//! The two programs against each other, and the provider against the C++ original's bytes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A provider that ends with the test.
struct Provider {
    child: Child,
    addr: String,
}

impl Provider {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_provider"))
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addr = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { child, addr }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_consumer_prints_the_friends_ten_times() {
    let provider = Provider::start();
    let output = Command::new(env!("CARGO_BIN_EXE_consumer"))
        .arg(&provider.addr)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for friend in ["1: gao yang", "2: liu hong", "3: wang shuo"] {
        assert_eq!(text.matches(friend).count(), 10, "{friend} in:\n{text}");
    }
}

#[test]
fn without_a_provider_the_consumer_says_so_and_fails() {
    let addr = {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        unused.local_addr().unwrap().to_string()
    };
    let output = Command::new(env!("CARGO_BIN_EXE_consumer"))
        .arg(&addr)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(&addr),
        "{output:?}"
    );
}

/// The request and the reply that were captured from the C++ original, byte for byte.
#[test]
fn the_originals_client_gets_the_originals_reply() {
    let provider = Provider::start();
    let mut request = vec![0x23, 0x0a, 0x0f];
    request.extend(b"FiendServiceRpc\x12\x0eGetFriendsList\x18\x03\x08\xe8\x07");
    let mut reply = vec![0x0a, 0x00, 0x12, 0x08];
    reply.extend(b"gao yang\x12\x08liu hong\x12\x09wang shuo");

    let mut stream = TcpStream::connect(&provider.addr).unwrap();
    for _ in 0..2 {
        stream.write_all(&request).unwrap();
        let mut received = vec![0; reply.len()];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received, reply);
    }
}
