//! The server that the tests look into, and the program that looks.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use rpc::builtin::{
    DescribeReply, DescribeRequest, HEALTH, HealthReply, HealthRequest, ListServicesReply,
    MethodInfo, REFLECTION, ServiceInfo, ServingStatus,
};
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

/// A server of `zoo.Keeper`, which is well.
pub(crate) struct Zoo {
    handle: ProviderHandle,
    _sleeping: Arc<Mutex<Vec<Done<Visitor>>>>,
}

impl Zoo {
    pub(crate) fn open() -> Zoo {
        let sleeping = Arc::default();
        let keeper = Arc::new(OurKeeper {
            sleeping: Arc::clone(&sleeping),
            escaped: AtomicU32::new(0),
        });
        let mut provider = RpcProvider::new(ProviderOptions::default());
        let (first, second) = (
            KeeperService::new(Arc::clone(&keeper)),
            KeeperService::new(keeper),
        );
        provider.notify_service(first).unwrap();
        provider.notify_service(Reflection(second)).unwrap();
        provider.notify_service(Health).unwrap();
        Zoo {
            handle: provider.start("127.0.0.1:0").unwrap(),
            _sleeping: sleeping,
        }
    }

    /// A server that says nothing of itself.
    pub(crate) fn without_builtin_services() -> Zoo {
        let provider = RpcProvider::new(ProviderOptions::default());
        Zoo {
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

/// Tells of one service, and of one that has no descriptors.
struct Reflection(KeeperService<OurKeeper>);

impl Service for Reflection {
    fn name(&self) -> &'static str {
        REFLECTION
    }

    fn methods(&self) -> &'static [&'static str] {
        &["ListServices", "Describe"]
    }

    fn call(&self, method: usize, _context: RpcContext, args: Bytes, reply: ReplySlot) {
        if method == 0 {
            let methods = self.0.methods().iter().enumerate();
            let methods = methods.map(|(index, name)| MethodInfo {
                name: (*name).to_owned(),
                server_streaming: self.0.is_streaming(index),
            });
            let keeper = ServiceInfo {
                name: self.0.name().to_owned(),
                full_name: self.0.full_name().to_owned(),
                methods: methods.collect(),
                described: true,
            };
            let old = ServiceInfo {
                name: "Old".to_owned(),
                full_name: "Old".to_owned(),
                ..ServiceInfo::default()
            };
            return reply.reply(&ListServicesReply {
                services: vec![keeper, old],
            });
        }
        let name = DescribeRequest::decode(args).unwrap().service;
        if name != self.0.name() && name != self.0.full_name() {
            return reply.refuse(RpcError::new(Code::NotFound, "no such service"));
        }
        reply.reply(&DescribeReply {
            full_name: self.0.full_name().to_owned(),
            file_descriptor_set: self.0.file_descriptor_set().into(),
        });
    }
}

/// The server and `Keeper` are well, `Till` is not.
struct Health;

impl Service for Health {
    fn name(&self) -> &'static str {
        HEALTH
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Check", "Watch"]
    }

    fn is_streaming(&self, method: usize) -> bool {
        method == 1
    }

    fn call(&self, method: usize, _context: RpcContext, args: Bytes, reply: ReplySlot) {
        let health = |status: ServingStatus| HealthReply {
            status: status.into(),
        };
        if method == 0 {
            return match HealthRequest::decode(args).unwrap().service.as_str() {
                "" | "Keeper" => reply.reply(&health(ServingStatus::Serving)),
                "Till" => reply.reply(&health(ServingStatus::NotServing)),
                _ => reply.reply(&health(ServingStatus::Unknown)),
            };
        }
        let stream = StreamSender::new(reply);
        stream.send(&health(ServingStatus::Serving)).unwrap();
        stream.send(&health(ServingStatus::NotServing)).unwrap();
        stream.finish();
    }
}
