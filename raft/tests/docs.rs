//! The pages that name tests, against the code. `docs/failures.md`: every number is there once, every
//! test exists, and of the tests of a failure one says which failure it is. `docs/faults.md`: every fault is
//! there once, and every test exists. `docs/scenarios.md`: every script exists and is listed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The lists' headings, what a comment calls their items, and how many there are.
const LISTS: [(&str, &str, u32); 2] = [
    ("## Failures", "failure", 126),
    ("## The original's defects", "defect", 32),
];

/// The faults: a letter for each kind, and how many there are.
const FAULTS: [(char, u32); 7] = [
    ('P', 6),
    ('D', 12),
    ('T', 3),
    ('N', 10),
    ('C', 9),
    ('M', 6),
    ('X', 2),
];

#[test]
fn every_number_is_there_once_with_a_test_or_a_reason() {
    for (heading, _, count) in LISTS {
        let rows = rows_under(heading);
        let numbers: Vec<u32> = rows.iter().map(|row| row.number).collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{heading}");
        for row in rows {
            assert!(
                !row.what.is_empty() && !row.why_not.is_empty(),
                "{heading}, {}: say what failed, and a test or a reason why not here",
                row.number
            );
        }
    }
}

#[test]
fn every_test_that_the_page_names_exists() {
    let mut findings = Vec::new();
    for (heading, _, _) in LISTS {
        for row in rows_under(heading) {
            let missing = links(&row.why_not).into_iter().filter_map(missing);
            findings.extend(missing.map(|test| format!("{}: {test}", row.number)));
        }
    }
    assert!(
        findings.is_empty(),
        "docs/failures.md names tests that are gone:\n{}",
        findings.join("\n")
    );
}

#[test]
fn of_the_tests_of_a_failure_one_carries_its_number() {
    let mut findings = Vec::new();
    let mut cited = BTreeMap::new();
    for (heading, word, _) in LISTS {
        for row in rows_under(heading) {
            let tests = links(&row.why_not);
            let carries = |link: &Link| {
                cited
                    .entry((link.path.clone(), word))
                    .or_insert_with(|| numbers_cited(&text_of(&link.path), word))
                    .contains(&row.number)
            };
            if !tests.is_empty() && !tests.iter().any(carries) {
                let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
                findings.push(format!("{word} {}: {}", row.number, names.join(", ")));
            }
        }
    }
    assert!(
        findings.is_empty(),
        "say in the comment of one of these tests which number of docs/failures.md it is:\n{}",
        findings.join("\n")
    );
}

#[test]
fn every_fault_is_there_once_and_its_tests_exist() {
    let page = text_of("docs/faults.md");
    let rows: Vec<[&str; 3]> = page
        .lines()
        .filter_map(cells)
        .filter(|[fault, ..]| fault.ends_with(|last: char| last.is_ascii_digit()))
        .collect();
    let listed: Vec<&str> = rows.iter().map(|[fault, ..]| *fault).collect();
    let all = FAULTS.iter();
    let all =
        all.flat_map(|(kind, count)| (1..=*count).map(move |number| format!("{kind}{number}")));
    assert_eq!(listed, all.collect::<Vec<_>>());
    let mut findings = Vec::new();
    for [fault, what, injected_by] in rows {
        if what.is_empty() || injected_by.is_empty() {
            findings.push(format!(
                "{fault}: say what it is, and a test or a reason why there is none"
            ));
        }
        let missing = links(injected_by).into_iter().filter_map(missing);
        findings.extend(missing.map(|test| format!("{fault}: {test}")));
    }
    assert!(
        findings.is_empty(),
        "docs/faults.md:\n{}",
        findings.join("\n")
    );
}

#[test]
fn every_script_is_listed_and_begins_with_what_it_shows() {
    let page = text_of("docs/scenarios.md");
    let listed: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(links)
        .map(|link| link.path)
        .collect();
    let folder = "raft/tests/consensus/scripts";
    let there: BTreeSet<String> = fs::read_dir(root().join(folder))
        .unwrap()
        .map(|file| format!("{folder}/{}", file.unwrap().file_name().to_str().unwrap()))
        .collect();
    let differing: Vec<&String> = listed.symmetric_difference(&there).collect();
    assert!(
        differing.is_empty(),
        "listed in docs/scenarios.md and not there, or there and not listed: {differing:?}"
    );
    for script in there {
        assert!(
            text_of(&script).starts_with("# "),
            "{script}: begin with a comment for a student with the paper open"
        );
    }
}

#[test]
fn citations_are_read_as_people_write_them() {
    let text = "/// Failures 1, 60-62 and 75; the original's defect 3.\n// (§5.3; failure 30: also\n# failure 7.\n// failure 8.5 s later";
    assert_eq!(
        numbers_cited(text, "failure"),
        BTreeSet::from([1, 60, 61, 62, 75, 30, 7, 8])
    );
    assert_eq!(numbers_cited(text, "defect"), BTreeSet::from([3]));
    assert_eq!(
        numbers_cited("three failures in 12 s", "failure"),
        BTreeSet::new()
    );
}

/// A row of one of the page's tables.
struct Row {
    number: u32,
    what: String,
    why_not: String,
}

/// A test that the page names, and the file that it says to have it.
struct Link {
    name: String,
    path: String,
}

fn rows_under(heading: &str) -> Vec<Row> {
    let page = text_of("docs/failures.md");
    let lines = page.lines().skip_while(|line| *line != heading).skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    let rows = section.filter_map(|line| {
        let [number, what, why_not] = cells(line)?;
        Some(Row {
            number: number.parse().ok()?,
            what: what.to_owned(),
            why_not: why_not.to_owned(),
        })
    });
    rows.collect()
}

/// The cells of a table's row, if the table has three columns.
fn cells(line: &str) -> Option<[&str; 3]> {
    let cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
    cells.collect::<Vec<_>>().try_into().ok()
}

/// What is wrong with a link to a test.
fn missing(Link { name, path }: Link) -> Option<String> {
    let there = match fs::read_to_string(root().join(&path)) {
        Err(_) => false,
        Ok(_) if is_script(&path) => path.ends_with(&name),
        Ok(code) => code.contains(&format!("fn {name}(")) || code.contains(&format!("fn {name}<")),
    };
    (!there).then(|| format!("there is no {name} in {path}"))
}

/// The Markdown links of a cell to files of the code.
fn links(cell: &str) -> Vec<Link> {
    let parts = cell.split('[').skip(1).map(|part| {
        let (name, rest) = part
            .split_once("](../")
            .expect("a link to a file of the code");
        let (path, _) = rest.split_once(')').expect("a link has an end");
        Link {
            name: name.trim_matches('`').to_owned(),
            path: path.to_owned(),
        }
    });
    parts.collect()
}

/// The numbers that follow `word` or its plural: `failure 3`, `failures 1, 2 and 60-62`.
fn numbers_cited(text: &str, word: &str) -> BTreeSet<u32> {
    let text = text.to_lowercase();
    let mut numbers = BTreeSet::new();
    for after in text.split(word).skip(1) {
        let after = after.strip_prefix('s').unwrap_or(after);
        let items = after.replace(" and ", ", ");
        for item in items.split(", ") {
            let digits_and_dash = |c: char| !c.is_ascii_digit() && c != '-';
            let item = item.trim_start();
            let range = item.split(digits_and_dash).next().unwrap();
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse()) else {
                break;
            };
            numbers.extend(first..=last);
            if range.len() < item.len() {
                break; // the list ends in the middle of a sentence
            }
        }
    }
    numbers
}

fn is_script(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "txt")
}

fn text_of(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
