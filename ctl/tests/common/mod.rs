//! The server that the tests look into, and the program that looks.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rpc::builtin::HealthHandle;
use rpc::{
    Code, Done, ProviderHandle, ProviderOptions, ReplySlot, RpcContext, RpcError, RpcProvider,
    Service, StreamSender,
};

use zoo::animals::Animal;
use zoo::{Keeper, KeeperService, Visitor, WatchArgs};

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated"
)]
pub(crate) mod zoo {
    rpc::include_proto!("zoo");

    pub(crate) mod animals {
        rpc::include_proto!("zoo.animals");
    }
}

/// A server of `zoo.Keeper` and of a service without descriptors.
pub(crate) struct Zoo {
    pub(crate) health: HealthHandle,
    handle: ProviderHandle,
    _sleeping: Arc<Mutex<Vec<Done<Visitor>>>>,
}

impl Zoo {
    pub(crate) fn open() -> Zoo {
        Zoo::with_options(ProviderOptions::default())
    }

    pub(crate) fn with_options(options: ProviderOptions) -> Zoo {
        let sleeping = Arc::default();
        let keeper = KeeperService::new(Arc::new(OurKeeper {
            sleeping: Arc::clone(&sleeping),
            escaped: AtomicU32::new(0),
        }));
        let mut provider = RpcProvider::new(options);
        provider.notify_service(keeper).unwrap();
        provider.notify_service(Old).unwrap();
        provider.notify_builtin_services().unwrap();
        Zoo {
            health: provider.health(),
            handle: provider.start("127.0.0.1:0").unwrap(),
            _sleeping: sleeping,
        }
    }

    /// A server that says nothing of itself.
    pub(crate) fn without_builtin_services() -> Zoo {
        let provider = RpcProvider::new(ProviderOptions::default());
        Zoo {
            health: provider.health(),
            handle: provider.start("127.0.0.1:0").unwrap(),
            _sleeping: Arc::default(),
        }
    }

    pub(crate) fn addr(&self) -> String {
        self.handle.local_addr().to_string()
    }

    /// Runs `kvctl rpc COMMAND ADDR ARGUMENTS`.
    pub(crate) fn kvctl(&self, command: &str, arguments: &[&str]) -> Told {
        let addr = self.addr();
        let head = ["rpc", command, &addr];
        kvctl(head.into_iter().chain(arguments.iter().copied()), "")
    }
}

/// What the program said.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    /// What stands on standard output; nothing went wrong.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// The line on stderr, of an end with this code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        let line = self.err.trim_end().strip_prefix("kvctl: ");
        line.expect("who speaks comes first").to_owned()
    }
}

/// Runs the program with `input` on its standard input.
pub(crate) fn kvctl<'a>(arguments: impl IntoIterator<Item = &'a str>, input: &str) -> Told {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvctl"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends without reading it is none the worse.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    Told {
        code: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

struct OurKeeper {
    /// Calls that are never answered.
    sleeping: Arc<Mutex<Vec<Done<Visitor>>>>,
    escaped: AtomicU32,
}

impl Keeper for OurKeeper {
    fn find(&self, _context: RpcContext, args: Animal, done: Done<Animal>) {
        done.run(args);
    }

    fn watch(&self, _context: RpcContext, args: WatchArgs, stream: StreamSender<Visitor>) {
        for number in 1..=args.visitors {
            let name = format!("visitor {number}");
            stream.send(&Visitor { number, name }).unwrap();
        }
        if args.fail {
            stream.fail(RpcError::new(Code::NotFound, "the zoo is closed"));
        } else {
            stream.finish();
        }
    }

    fn escape(&self, _context: RpcContext, args: WatchArgs, done: Done<Visitor>) {
        if self.escaped.fetch_add(1, Ordering::Relaxed) < args.visitors {
            return done.run(Visitor::default());
        }
        let text = "the cage\n  is locked";
        done.fail(RpcError::new(Code::PermissionDenied, text));
    }

    fn sleep(&self, _context: RpcContext, _args: WatchArgs, done: Done<Visitor>) {
        self.sleeping.lock().push(done);
    }

    fn who_am_i(&self, context: RpcContext, _args: WatchArgs, done: Done<Visitor>) {
        let told = |key| {
            context
                .metadata()
                .get_str(key)
                .unwrap_or("nobody")
                .to_owned()
        };
        done.run(Visitor {
            number: 0,
            name: format!("{}, {}", told("authorization"), told("tenant")),
        });
    }
}

/// A service by hand, which has no descriptors.
struct Old;

impl Service for Old {
    fn name(&self) -> &'static str {
        "Old"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Creak"]
    }

    fn call(&self, _method: usize, _context: RpcContext, _args: Bytes, reply: ReplySlot) {
        reply.refuse(RpcError::new(Code::Internal, "too old"));
    }
}
