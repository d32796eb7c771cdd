//! The check against the log's order, held against a search through all orders.

use sim::{Call, Effect, History, What, is_linearizable_by_search};

/// A register under random calls, some of which are made to lie.
fn random_history(rng: &mut fastrand::Rng) -> (History, Vec<Effect>) {
    let mut history = History::default();
    let mut log = Vec::new();
    let mut value: Vec<u64> = Vec::new();
    let mut values = vec![value.clone()];
    for token in 1..=rng.u64(1..6) {
        // Takes effect at `10 * token`, somewhere between its beginning and its end.
        let at = 10 * token;
        let (before, after) = (rng.u64(..25), rng.u64(1..25));
        let (invoked, returned) = (at.saturating_sub(before), at + after);
        let what = match rng.u8(..4) {
            0 => {
                value = vec![token];
                What::Put(token)
            }
            1 => {
                value.push(token);
                What::Append(token)
            }
            _ => What::Get(value.clone()),
        };
        let is_write = !matches!(what, What::Get(_));
        if is_write {
            let append = matches!(what, What::Append(_));
            log.push(Effect {
                key: 0,
                token,
                append,
            });
            values.push(value.clone());
        }
        history.calls.push(Call {
            key: 0,
            what,
            invoked,
            returned: (!is_write || rng.u8(..5) > 0).then_some(returned),
        });
    }
    if rng.bool() {
        let stale = values[rng.usize(..values.len())].clone();
        let place = rng.usize(..history.calls.len());
        if let What::Get(seen) = &mut history.calls[place].what {
            *seen = stale;
        }
    }
    (history, log)
}

/// What the log's order explains, some order explains; and what none explains, it does not either.
/// (It may refuse a history that another order of the writes would explain: then the log lied.)
#[test]
fn the_logs_order_explains_nothing_that_no_order_explains() {
    let seed = 7;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut explained, mut refused, mut stricter) = (0, 0, 0);
    for _ in 0..20_000 {
        let (history, log) = random_history(&mut rng);
        let (by_log, by_search) = (
            history.check(&log).is_ok(),
            is_linearizable_by_search(&history),
        );
        assert!(by_search || !by_log, "{history:?} in the order {log:?}");
        explained += u32::from(by_log);
        refused += u32::from(!by_search);
        stricter += u32::from(by_search && !by_log);
    }
    println!(
        "{explained} explained, {refused} refused by both, {stricter} by the log's order only"
    );
    assert!(explained > 1_000 && refused > 100);
    assert!(stricter < refused, "the log's order is nearly the only one");
}

#[test]
fn what_the_log_does_not_explain_is_named() {
    let call = |what, invoked, returned| Call {
        key: 1,
        what,
        invoked,
        returned: Some(returned),
    };
    let log = [1, 2].map(|token| Effect {
        key: 1,
        token,
        append: false,
    });
    let error = |calls: Vec<Call>, log: &[Effect]| History { calls }.check(log).unwrap_err().0;

    let lost = error(vec![call(What::Put(3), 1, 2)], &log);
    assert_eq!(lost, "acknowledged write 3 is lost");
    let twice = error(vec![], &[log[0], log[1], log[0]]);
    assert_eq!(twice, "write 1 took effect twice");
    let never = error(vec![call(What::Get(vec![1, 2]), 1, 2)], &log);
    assert_eq!(never, "a read saw [1, 2], which never was");
    let stale = error(
        vec![call(What::Put(2), 1, 2), call(What::Get(vec![1]), 3, 4)],
        &log,
    );
    assert!(stale.contains("comes after it"), "{stale}");
}
