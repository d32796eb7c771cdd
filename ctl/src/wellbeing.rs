//! `ping`, `health`: is a server there, and is it well?

use std::thread;
use std::time::Duration;

use rpc::RpcError;
use rpc::builtin::{HEALTH_CHECK, HEALTH_WATCH, HealthReply, HealthRequest, ServingStatus};
use rpc::{Code, RpcStream};

use crate::failure::{Failure, in_one_line, print};
use crate::server::Server;

/// How long an answer to a ping may take that the command line does not limit.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings that fail are told among the others; the command fails at the end.
pub(crate) fn ping(server: &Server, count: u32, interval: Duration) -> Result<(), Failure> {
    let timeout = server.timeout().unwrap_or(PING_TIMEOUT);
    let mut answered = Vec::new();
    for number in 1..=count {
        if number > 1 {
            thread::sleep(interval);
        }
        match server.channel.ping(timeout) {
            Ok(time) => {
                answered.push(time);
                print(format_args!("{number}: {} ms", ms(time)))?;
            }
            Err(error) => print(format_args!(
                "{number}: {}",
                in_one_line(&error.to_string())
            ))?,
        }
    }
    answered.sort_unstable();
    if let [min, .., max] = answered[..] {
        let median = answered[answered.len() / 2];
        let (min, median, max) = (ms(min), ms(median), ms(max));
        print(format_args!(
            "min {min} ms, median {median} ms, max {max} ms"
        ))?;
    }
    match count as usize - answered.len() {
        0 => Ok(()),
        lost => {
            let addr = &server.addr;
            let text = format!("{lost} of {count} pings to {addr} were not answered");
            Err(Failure::Failed(text))
        }
    }
}

fn ms(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

pub(crate) fn health(server: &Server, service: &str, watch: bool) -> Result<(), Failure> {
    let request = HealthRequest {
        service: service.to_owned(),
    };
    let of = match service {
        "" => server.addr.clone(),
        service => format!("{service} at {}", server.addr),
    };
    let failed = |error: RpcError| match error.code() {
        Code::Unimplemented => Failure::Failed(format!(
            "{} does not tell its health: its provider has to offer the builtin services",
            server.addr
        )),
        _ => Failure::of_call(format_args!("the health of {of}"), &error),
    };
    let mut controller = server.controller();
    if watch {
        let stream: Result<RpcStream<HealthReply>, _> =
            (server.channel).open_stream(&HEALTH_WATCH, &mut controller, &request);
        for reply in stream.map_err(failed)? {
            print(status_name(reply.map_err(failed)?))?;
        }
        return Ok(());
    }
    let reply: Result<HealthReply, _> =
        (server.channel).call(&HEALTH_CHECK, &mut controller, &request);
    let reply = reply.map_err(failed)?;
    print(status_name(reply))?;
    match reply.status() {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing => Err(Failure::Failed(format!(
            "{of} does not want calls now: send them elsewhere"
        ))),
        ServingStatus::Unknown => {
            let addr = &server.addr;
            Err(Failure::Failed(format!(
                "{addr} has no service {service} (`kvctl rpc list {addr}` tells)"
            )))
        }
    }
}

fn status_name(reply: HealthReply) -> &'static str {
    reply.status().name()
}
