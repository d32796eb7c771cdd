//! Who is measured: the framework, the bare echo, and the peers, which are a program of their own.
//!
//! `bench_peers` holds tonic and tarpc with all that they need, so that neither this crate nor what
//! it measures is built with an async runtime. It is asked by command lines and answers in lines:
//!
//! ```text
//! bench_peers serve SIDE                                  prints its address, ends with its stdin
//! bench_peers measure SIDE ADDR --server-pid PID ...      prints one Round as JSON
//! ```

use std::env;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;

use crate::bare;
use crate::cell::{Caller, Cell};
use crate::certificate::{self, Certificate};
use crate::child::{ChildProcess, program_beside};
use crate::command::Failure;
use crate::latency::Recorder;
use crate::round::Round;
use crate::rpc_load::{BlockingLoad, CallbackLoad, Target};
use crate::span::{Interrupt, Span};

/// How long a peer's client may take to start, to connect, and to end, beside its measuring.
const PEER_LIMIT: Duration = Duration::from_secs(45);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The framework, through a generated stub.
    Rpc,
    /// The same over TLS.
    Tls,
    /// Frames on one mio loop: [`bare`].
    Bare,
    /// gRPC on tokio.
    Tonic,
    /// serde messages on tokio.
    Tarpc,
}

impl Side {
    /// As on the command line and in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Rpc => "rpc",
            Side::Tls => "tls",
            Side::Bare => "bare",
            Side::Tonic => "tonic",
            Side::Tarpc => "tarpc",
        }
    }

    /// The program that holds its server, and its client where that is no part of this one.
    fn program(self) -> Result<PathBuf, Failure> {
        match self {
            Side::Rpc | Side::Tls | Side::Bare => {
                env::current_exe().map_err(Failure::of("cannot find this program's own file"))
            }
            Side::Tonic | Side::Tarpc => program_beside("bench_peers").map_err(|missing| {
                Failure::Failed(format!("{missing}, or ask for `--sides rpc,bare`"))
            }),
        }
    }
}

/// How a peer's client runs: what its `--threads` and `--drive` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    threads: &'static str,
    drive: &'static str,
}

impl Way {
    /// Those that can differ for `cell`: with one call under way on a connection a task holds one
    /// future in any case.
    fn all_for(cell: &Cell) -> impl Iterator<Item = Way> {
        let drives: &[_] = match cell.in_flight {
            1 => &["tasks"],
            _ => &["tasks", "unordered"],
        };
        let threads = ["current", "multi"].into_iter();
        threads.flat_map(move |threads| drives.iter().map(move |&drive| Way { threads, drive }))
    }
}

impl Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.threads, self.drive)
    }
}

/// A server in a process of its own; ends when dropped.
#[derive(Debug)]
pub struct Server {
    side: Side,
    addr: SocketAddr,
    /// Of a server that speaks TLS.
    certificate: Option<Certificate>,
    process: ChildProcess,
}

impl Server {
    /// Starts the server of `side` and waits until it says where it listens.
    ///
    /// # Errors
    /// Its program is missing, it did not start, or said something else.
    pub fn start(side: Side) -> Result<Server, Failure> {
        let mut command = Command::new(side.program()?);
        command.args(["serve", side.name()]);
        let certificate = match side {
            Side::Tls => {
                Some(Certificate::new().map_err(Failure::of("cannot make a certificate"))?)
            }
            _ => None,
        };
        if let Some(certificate) = &certificate {
            command.arg("--certificate").arg(certificate.dir());
        }
        let (process, line) = ChildProcess::start_and_read_line(&mut command).map_err(
            Failure::of(format!("cannot start the {} server", side.name())),
        )?;
        let addr = line.trim().parse();
        let addr = addr.map_err(|_| Failure::Failed(format!("a server said `{}`", line.trim())))?;
        Ok(Server {
            side,
            addr,
            certificate,
            process,
        })
    }

    /// Whose server it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The number of its process, for `/proc`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The framework's server, as its clients see it.
    fn target(&self) -> Result<Target, Failure> {
        let dir = self.certificate.as_ref().map(Certificate::dir);
        let tls = dir.map(certificate::tls_client).transpose();
        let tls = tls.map_err(|error| Failure::Failed(format!("no TLS: {error}")))?;
        Ok(Target {
            addr: self.addr,
            tls,
        })
    }

    /// The way for a peer's client that makes the most requests a second, each tried for `length`;
    /// `None` for our own clients, which have one.
    ///
    /// # Errors
    /// As [`measure`](Server::measure).
    pub fn fastest_way(
        &self,
        cell: &Cell,
        length: Duration,
        interrupt: &Interrupt,
    ) -> Result<Option<Way>, Failure> {
        if matches!(self.side, Side::Rpc | Side::Tls | Side::Bare) {
            return Ok(None);
        }
        let (mut fastest, mut most) = (None, 0.0);
        for way in Way::all_for(cell) {
            let round = self.measure(cell, Some(way), length, interrupt)?;
            if round.requests_per_s > most {
                (fastest, most) = (Some(way), round.requests_per_s);
            }
        }
        Ok(fastest)
    }

    /// Runs the load of `cell` against it and watches both for `length`. A peer's client runs in
    /// the given way.
    ///
    /// # Errors
    /// The client did not start, a request failed, a signal came.
    pub fn measure(
        &self,
        cell: &Cell,
        way: Option<Way>,
        length: Duration,
        interrupt: &Interrupt,
    ) -> Result<Round, Failure> {
        let Cell {
            payload_bytes,
            connections,
            in_flight,
            ..
        } = *cell;
        let payload = Bytes::from(vec![0x5A; payload_bytes]);
        let span = |recorders: &[Recorder]| {
            let span = Span::measure(length, recorders, &[self.pid()], interrupt)?;
            Ok(Round::of(&span))
        };
        let recorder = Recorder::default();
        // A load runs until `_load` is dropped.
        match (self.side, cell.caller) {
            (Side::Bare, _) => {
                let payload = payload.to_vec();
                let client = bare::Client::start(
                    self.addr,
                    connections,
                    in_flight,
                    payload,
                    recorder.clone(),
                );
                let _load = client.map_err(Failure::of("cannot start the bare client"))?;
                span(&[recorder])
            }
            (Side::Rpc | Side::Tls, Caller::Callback) => {
                let target = self.target()?;
                let _load =
                    CallbackLoad::start(&target, connections, in_flight, &payload, &recorder)?;
                span(&[recorder])
            }
            (Side::Rpc | Side::Tls, Caller::Blocking) => {
                let recorders: Vec<_> = (0..in_flight).map(|_| Recorder::default()).collect();
                let _load = BlockingLoad::start(&self.target()?, &payload, &recorders)?;
                span(&recorders)
            }
            (Side::Tonic | Side::Tarpc, _) => self.measure_peer(cell, way, length),
        }
    }

    /// The peer's client is a process of its own too and watches itself.
    fn measure_peer(
        &self,
        cell: &Cell,
        way: Option<Way>,
        length: Duration,
    ) -> Result<Round, Failure> {
        let mut command = Command::new(self.side.program()?);
        command.args(["measure", self.side.name(), &self.addr.to_string()]);
        let options = [
            ("--server-pid", self.pid().to_string()),
            ("--connections", cell.connections.to_string()),
            ("--in-flight", cell.in_flight.to_string()),
            ("--payload-bytes", cell.payload_bytes.to_string()),
            ("--seconds", length.as_secs_f64().to_string()),
        ];
        for (name, value) in options {
            command.args([name, &value]);
        }
        if let Some(Way { threads, drive }) = way {
            command.args(["--threads", threads, "--drive", drive]);
        }
        let limit = length * 2 + PEER_LIMIT;
        let name = self.side.name();
        let (_process, line) = ChildProcess::start_and_read_line_within(limit, &mut command)
            .map_err(Failure::of(format!("no figures from the {name} client")))?;
        serde_json::from_str(&line)
            .map_err(|error| Failure::Failed(format!("figures of the {name} client: {error}")))
    }
}
