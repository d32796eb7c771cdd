//! FILE and data directory in every state a run may find them in.

use tempfile::TempDir;

use super::*;

fn wanted(folder: &TempDir, nodes: usize) -> Wanted {
    Wanted {
        nodes,
        file: folder.path().join("t.conf"),
        data_dir: folder.path().join("t.data"),
        base_port: 29_016,
        ip: [127, 0, 0, 1].into(),
        fresh: false,
    }
}

fn fresh(folder: &TempDir, nodes: usize) -> Wanted {
    Wanted {
        fresh: true,
        ..wanted(folder, nodes)
    }
}

fn give_node_data(wanted: &Wanted, content: &str) {
    let dir = node_dir(&wanted.data_dir, 0);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("entry"), content).unwrap();
}

/// A lock as a process that runs would hold it.
fn held(path: &Path) -> File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "process 4711\n").unwrap();
    let lock = File::open(path).unwrap();
    lock.try_lock().unwrap();
    lock
}

#[test]
fn a_missing_file_is_written_once_and_then_used() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = Wanted {
        file: folder.path().join("new/t.conf"),
        ..wanted(&folder, 3)
    };
    let first = prepare(&wanted).unwrap().cluster;
    assert_eq!(first.nodes.len(), 3);
    assert!(first.nodes.iter().all(|address| address.port() >= 29_016));
    assert_eq!(prepare(&wanted).unwrap().cluster, first);
    assert_eq!(ClusterFile::load(&wanted.file).unwrap(), first);
}

#[test]
fn a_file_of_comments_is_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = wanted(&folder, 2);
    fs::write(&wanted.file, proto::cluster::HEADER).unwrap();
    assert_eq!(prepare(&wanted).unwrap().cluster.nodes.len(), 2);
    assert!(
        fs::read_to_string(&wanted.file)
            .unwrap()
            .starts_with(proto::cluster::HEADER)
    );
}

#[test]
fn another_count_names_both_numbers_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let before = prepare(&wanted(&folder, 1)).unwrap().cluster;
    let Err(Failure::Usage(text)) = prepare(&wanted(&folder, 3)) else {
        panic!("3 is not 1")
    };
    assert!(
        text.ends_with(
            "t.conf lists 1 node, not 3: start them with -n 1, or start over with 3 empty nodes by adding --fresh"
        ),
        "{text}"
    );
    assert_eq!(prepare(&wanted(&folder, 1)).unwrap().cluster, before);
}

#[test]
fn fresh_moves_data_aside_and_never_over_older_data() {
    let folder = tempfile::tempdir().unwrap();
    let first = prepare(&wanted(&folder, 1)).unwrap().cluster;
    for (run, nodes) in [("1", 2), ("2", 3)] {
        give_node_data(&wanted(&folder, 1), run);
        let layout = prepare(&fresh(&folder, nodes)).unwrap();
        assert_eq!(layout.cluster.nodes.len(), nodes);
        assert_ne!(
            layout.cluster.cluster_id, first.cluster_id,
            "old nodes must not fit in"
        );
        let old = folder.path().join(format!("t.data.old-{run}"));
        assert_eq!(fs::read_to_string(old.join("node0/entry")).unwrap(), run);
        assert!(!old.join(LAUNCHER_LOCK).exists());
        assert!(!layout.data_dir.join("node0").exists());
        assert!(
            prepare(&wanted(&folder, nodes)).is_err(),
            "the new directory is locked"
        );
    }
    prepare(&fresh(&folder, 1)).unwrap();
    assert!(
        !folder.path().join("t.data.old-3").exists(),
        "there was no data to keep"
    );
}

#[test]
fn fresh_does_not_overwrite_what_is_no_cluster_file() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = fresh(&folder, 1);
    fs::write(&wanted.file, "# Read me\n\nThis is a text.\n").unwrap();
    let Err(Failure::Failed(text)) = prepare(&wanted) else {
        panic!("a text is no cluster file")
    };
    assert!(text.contains("t.conf:3: "), "{text}");
    assert!(
        fs::read_to_string(&wanted.file)
            .unwrap()
            .contains("This is a text.")
    );
}

#[test]
fn data_without_its_file_is_not_taken_for_a_new_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = wanted(&folder, 1);
    give_node_data(&wanted, "x");
    let Err(Failure::Failed(text)) = prepare(&wanted) else {
        panic!("whose data is it?")
    };
    assert!(text.contains("lists no node but"), "{text}");
    assert!(!wanted.file.exists());
}

#[test]
fn a_second_launcher_is_told_who_holds_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = wanted(&folder, 1);
    let first = prepare(&wanted).unwrap();
    let Err(Failure::Failed(text)) = prepare(&wanted) else {
        panic!("the first one is still there")
    };
    let process_id = std::process::id();
    assert!(
        text.contains(&format!(
            "in use by another raft_core_run (process {process_id}): stop that one"
        )),
        "{text}"
    );
    drop(first);
    prepare(&wanted).unwrap();
}

#[test]
fn a_node_that_runs_alone_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("t.data");
    let lock = held(&node_dir(&data_dir, 1).join(NODE_LOCK));
    let text = running_node(&data_dir).unwrap();
    assert!(
        text.ends_with("node1 is in use by a running node (process 4711): stop it first"),
        "{text}"
    );
    drop(lock);
    assert_eq!(running_node(&data_dir), None);
}

#[test]
fn a_wait_ends_with_its_obstacle_or_with_its_reason() {
    let mut looks = 0;
    let gone_at_third = || {
        looks += 1;
        Ok((looks < 3).then(|| "held".to_owned()))
    };
    assert_eq!(wait_while(Duration::from_mins(1), gone_at_third), Ok(()));
    let still_there = wait_while(Duration::ZERO, || Ok(Some("held".to_owned())));
    assert_eq!(still_there, Err(Failure::failed("held")));
}

#[test]
fn ports_in_use_are_skipped_when_written_and_refused_when_listed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let found = free_addresses(taken.ip(), taken.port(), 2).unwrap();
    assert!(!found.contains(&taken) && found[0] != found[1], "{found:?}");

    let cluster = ClusterFile {
        nodes: vec![taken],
        cluster_id: 0,
    };
    let text = port_in_use(Path::new("t.conf"), &cluster).unwrap().unwrap();
    assert!(
        text.starts_with(&format!("{taken}, node 0's address in t.conf, is in use")),
        "{text}"
    );
    drop(listener);
    assert_eq!(port_in_use(Path::new("t.conf"), &cluster), Ok(None));
}

#[test]
fn an_address_of_another_machine_is_refused_at_once() {
    let nodes = vec!["192.0.2.1:29016".parse().unwrap()]; // RFC 5737: nobody has it
    let cluster = ClusterFile {
        nodes,
        cluster_id: 0,
    };
    let Err(Failure::Failed(text)) = port_in_use(Path::new("t.conf"), &cluster) else {
        panic!("not ours")
    };
    assert!(
        text.contains("run `raft_core_run --node 0 -f t.conf` on the machine that has it"),
        "{text}"
    );
}

#[test]
fn too_few_ports_are_counted() {
    let Err(Failure::Failed(text)) = free_addresses([127, 0, 0, 1].into(), u16::MAX, 2) else {
        panic!("there is only one port from 65535 up")
    };
    assert!(
        text.contains("from 65535 up, not 2: choose a lower --base-port"),
        "{text}"
    );
}
