use std::time::Duration;

use super::*;

const NEVER: u64 = u64::MAX;

fn history(lines: &[(u64, u64, What)]) -> Vec<Operation> {
    let operation =
        |(client, &(called, returned, ref what)): (usize, &(u64, u64, What))| Operation {
            client,
            key: "k".to_owned(),
            what: what.clone(),
            called: Duration::from_millis(called),
            returned: (returned != NEVER).then(|| Duration::from_millis(returned)),
        };
    lines.iter().enumerate().map(operation).collect()
}

fn check_lines(lines: &[(u64, u64, What)]) -> Result<(), Violation> {
    let history = history(lines);
    let outcome = check(&history);
    assert_eq!(outcome.is_ok(), is_linearizable_by_search(&history));
    outcome
}

fn got(tokens: &[u64]) -> What {
    What::Get(tokens.to_vec())
}

use What::{Append, Put};

/// Tries all orders (Wing and Gong). For a handful of operations on one key.
fn is_linearizable_by_search(history: &[Operation]) -> bool {
    search(history, &mut vec![false; history.len()], &[])
}

fn search(history: &[Operation], done: &mut [bool], value: &[u64]) -> bool {
    let open: Vec<usize> = (0..history.len()).filter(|&place| !done[place]).collect();
    if open.iter().all(|&place| history[place].returned.is_none()) {
        return true;
    }
    // Whatever comes next must have been called before every open one ended.
    let first_end = open.iter().map(|&place| history[place].end()).min();
    for place in open {
        if first_end.is_some_and(|end| history[place].called > end) {
            continue;
        }
        let next = match &history[place].what {
            Put(token) => vec![*token],
            Append(token) => [value, &[*token]].concat(),
            What::Get(seen) if seen == value => value.to_vec(),
            What::Get(_) => continue,
        };
        done[place] = true;
        if search(history, done, &next) {
            return true;
        }
        done[place] = false;
    }
    false
}

#[test]
fn a_history_with_an_order_is_accepted() {
    check_lines(&[]).unwrap();
    check_lines(&[
        (0, 90, Put(1)),
        (10, 80, Append(2)),
        (20, 70, got(&[])),
        (30, 60, got(&[2])),
        (65, 75, got(&[1])),
        (91, 92, got(&[1])),
    ])
    .unwrap();
}

#[test]
fn a_stale_read_is_rejected() {
    let stale = [(0, 1, Put(1)), (2, 3, Put(2)), (4, 5, got(&[1]))];
    let violation = check_lines(&stale).unwrap_err().to_string();
    assert!(
        violation.contains("4000 us"),
        "it names the read: {violation}"
    );
    // Two reads beside a write: once it was seen, it stays seen.
    check_lines(&[
        (0, 1, Put(1)),
        (2, 9, Put(2)),
        (3, 4, got(&[2])),
        (5, 6, got(&[1])),
    ])
    .unwrap_err();
    check_lines(&[
        (0, 1, Put(1)),
        (2, 9, Append(2)),
        (3, 4, got(&[1, 2])),
        (5, 6, got(&[1])),
    ])
    .unwrap_err();
}

#[test]
fn a_lost_write_is_rejected() {
    check_lines(&[(0, 1, Put(1)), (2, 3, got(&[]))]).unwrap_err();
    check_lines(&[(0, 5, Append(1)), (1, 4, Append(2)), (6, 7, got(&[2]))]).unwrap_err();
}

#[test]
fn a_write_that_counts_twice_is_rejected() {
    check_lines(&[(0, 1, Append(1)), (2, 3, got(&[1, 1]))]).unwrap_err();
    check_lines(&[(0, NEVER, Append(1)), (2, 3, got(&[1, 1]))]).unwrap_err();
    check_lines(&[
        (0, NEVER, Append(1)),
        (0, 1, Put(2)),
        (2, 3, got(&[2, 1])),
        (4, 5, Put(3)),
        (6, 7, got(&[3, 1])),
    ])
    .unwrap_err();
}

#[test]
fn a_value_that_no_write_left_is_rejected() {
    let nobody = check_lines(&[(0, 1, got(&[7]))]).unwrap_err().to_string();
    assert!(nobody.contains("7 was written by nobody"), "{nobody}");
    check_lines(&[(0, 1, Put(1)), (0, 1, Put(2)), (2, 3, got(&[1, 2]))]).unwrap_err();
}

#[test]
fn an_unknown_write_may_count_late_or_never_but_not_early() {
    let unknown = |first: u64, second: u64| {
        check_lines(&[
            (0, 1, Put(1)),
            (2, NEVER, Put(2)),
            (3, 4, got(&[first])),
            (50, 60, got(&[second])),
        ])
    };
    unknown(1, 2).unwrap();
    unknown(1, 1).unwrap();
    unknown(2, 1).unwrap_err();
    check_lines(&[(0, 1, got(&[2])), (2, NEVER, Put(2))]).unwrap_err();
}

#[test]
fn keys_are_looked_at_apart() {
    let mut two = history(&[(0, 1, Put(1)), (2, 3, got(&[1]))]);
    two[1].key = "other".to_owned();
    check(&two).unwrap_err();
}

/// Thousands of writes at once, most of which nobody ever heard of again: a search would never end.
#[test]
fn any_number_of_unknown_writes_is_decided() {
    const WRITES: u64 = 20_000;
    let writes = (0..WRITES).map(|token| {
        let write = if token % 2 == 0 { Put } else { Append };
        (0, NEVER, write(token))
    });
    let mut lines: Vec<_> = writes.collect();
    for token in (0..WRITES).step_by(10) {
        lines.push((token + 1, token + 2, got(&[token, token + 1])));
    }
    check(&history(&lines)).unwrap();
    lines.push((WRITES, WRITES + 1, got(&[WRITES - 10])));
    check(&history(&lines)).unwrap_err();
}

/// A register under random calls, some of which are made to lie.
fn random_history(random: &mut fastrand::Rng) -> Vec<Operation> {
    let mut lines: Vec<(u64, u64, What)> = Vec::new();
    let mut value: Vec<u64> = Vec::new();
    let mut values = vec![value.clone()];
    let overlap = random.u64(2..30);
    for token in 1..=random.u64(1..8) {
        // Takes effect at `10 * token`, somewhere between its call and its return.
        let at = 10 * token;
        let called = at.saturating_sub(random.u64(..overlap));
        let mut returned = at + random.u64(1..overlap);
        let what = match random.u8(..5) {
            0 => {
                value = vec![token];
                Put(token)
            }
            1 | 2 => {
                value.push(token);
                Append(token)
            }
            _ => got(&value),
        };
        if !matches!(what, What::Get(_)) {
            if random.u8(..4) == 0 {
                returned = NEVER;
                if random.bool() {
                    value.clone_from(values.last().unwrap()); // not done after all
                }
            }
            values.push(value.clone());
        }
        lines.push((called, returned, what));
    }
    for _ in 0..random.u8(..3) {
        lie(&mut lines, &values, random);
    }
    history(&lines)
}

/// Changes what one call saw, or when it was.
fn lie(lines: &mut [(u64, u64, What)], values: &[Vec<u64>], random: &mut fastrand::Rng) {
    let count = lines.len() as u64;
    let place = random.usize(..lines.len());
    let (called, returned, what) = &mut lines[place];
    match what {
        What::Get(seen) if random.bool() => {
            seen.clone_from(&values[random.usize(..values.len())]);
        }
        What::Get(seen) if !seen.is_empty() && random.bool() => {
            let token = random.usize(..seen.len());
            seen[token] = random.u64(1..=count);
        }
        What::Get(seen) => seen.truncate(random.usize(..=seen.len())),
        Put(_) | Append(_) => {
            let shift = random.u64(..60);
            *called += shift;
            *returned = returned.saturating_add(shift);
        }
    }
}

#[test]
fn it_agrees_with_a_search_through_all_orders() {
    let seed = 7;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..50_000 {
        let history = random_history(&mut random);
        let expected = is_linearizable_by_search(&history);
        let outcome = check(&history);
        assert_eq!(outcome.is_ok(), expected, "{outcome:?} of {history:#?}");
        *if expected {
            &mut accepted
        } else {
            &mut rejected
        } += 1;
    }
    println!("{accepted} accepted, {rejected} rejected, by both");
    assert!(accepted > 10_000 && rejected > 5_000);
}
