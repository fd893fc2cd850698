//! Opening a store: whose it is, what it must be, and what is never touched.

use crate::fixture::{LEASE, at, open};
use crate::raw::Raw;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use storage::model::{BatchState, NodeId};
use storage::{Class, Store, StoreError};

on_both! {
    /// Expand, then contract: what only adds does not keep the version before from going on beside the new one.
    async fn a_store_of_a_newer_schema_is_used_until_it_needs_a_newer_binary(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        let (url, raw, node) = (store.url.clone(), store.raw.clone(), store.node_id());
        store.close().await;
        drop(store.store);
        raw.exec(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
            SELECT version + 9000, 'from the future', success, checksum, 1 FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
        let opened = open(&url, node.clone()).await.expect("a newer schema that only adds is no matter");
        assert!(opened.batch(&fence.batch).await.unwrap().is_some());
        opened.close().await;
        drop(opened);
        let rows = storage::store::schema(&url).await.unwrap();
        let last = rows.last().expect("there are migrations");
        assert_eq!((last.version, last.foreign, last.applied), (9001, true, true));
        raw.exec("UPDATE compatibility SET least_level = 3").await;
        let before = raw.snapshot().await;
        for refusal in [open(&url, node).await.unwrap_err(), storage::store::migrate(&url).await.unwrap_err()] {
            assert!(matches!(refusal, StoreError::TooOld { least: 3, level: 2 }), "{refusal}");
            assert_eq!(refusal.class(), Class::Terminal);
        }
        before.assert_same(&raw.snapshot().await, "opening a newer store");
    }

    async fn migrating_again_changes_nothing_and_says_what_there_is(store: Fixture) {
        let (url, raw) = (store.url.clone(), store.raw.clone());
        store.close().await;
        drop(store.store);
        let before = raw.snapshot().await;
        let rows = storage::store::migrate(&url).await.unwrap();
        assert!(rows.len() >= 6 && rows.iter().all(|row| row.applied && !row.foreign), "{rows:?}");
        assert_eq!(storage::store::schema(&url).await.unwrap(), rows);
        before.assert_same(&raw.snapshot().await, "migrating again");
    }

    async fn a_store_whose_schema_was_changed_by_hand_is_refused(store: Fixture) {
        let (url, raw, node) = (store.url.clone(), store.raw.clone(), store.node_id());
        store.close().await;
        drop(store.store);
        raw.exec("UPDATE _sqlx_migrations SET success = (1 = 0) WHERE version = 1").await;
        let before = raw.snapshot().await;
        assert!(matches!(open(&url, node).await, Err(StoreError::Migrate(_))));
        before.assert_same(&raw.snapshot().await, "opening half a schema");
    }

    /// Invariant 38.
    async fn nothing_is_written_or_read_after_the_store_is_closed(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        store.close().await;
        let before = store.snapshot().await;
        assert!(store.look_again(&fence, BatchState::Submitted, at(9)).await.is_err());
        assert!(store.take_batch(&fence.batch, at(9)).await.is_err());
        assert!(store.renew_lease(LEASE).await.is_err());
        assert!(store.batch(&fence.batch).await.is_err());
        store.close().await;
        before.assert_same(&store.snapshot().await, "a closed store");
    }
}

only_on! { Sqlite:
    /// A quarter of the time of a drain goes into what these bring along.
    async fn sqlite_is_compiled_without_what_costs_a_lock_at_every_allocation_and_page(store: Fixture) {
        let options = store.raw.rows("PRAGMA compile_options").await;
        let has = |name: &str| options.iter().flatten().flatten().any(|option| option.starts_with(name));
        assert!(has("DEFAULT_MEMSTATUS=0") && has("THREADSAFE=1"), "{options:?}");
        assert!(!has("ENABLE_MEMORY_MANAGEMENT") && !has("ENABLE_API_ARMOR"), "{options:?}");
    }

    async fn a_second_open_is_refused_and_names_the_process_that_has_it(store: Fixture) {
        let before = store.snapshot().await;
        let refusal = open(&store.url, store.node_id()).await.unwrap_err();
        let StoreError::Owned { path, pid } = &refusal else { panic!("{refusal:?}") };
        assert_eq!(
            (path.as_path(), pid),
            (store.folder.path().join("store.db").as_path(), &std::process::id().to_string())
        );
        assert!(refusal.to_string().contains(&std::process::id().to_string()));
        assert_eq!(refusal.class(), Class::Conflict);
        before.assert_same(&store.snapshot().await, "a second open");
        store.batch_in(BatchState::Planned).await;
        let store = store.restarted().await;
        assert_eq!(store.in_flight().await.unwrap().len(), 1, "once it is closed it opens");
    }

    /// The lock dies with its process, so nobody ever has to remove a file by hand.
    async fn a_lock_left_by_a_dead_process_is_no_obstacle(store: Fixture) {
        let path = store.folder.path().join("other.db");
        let lock = store.folder.path().join("other.db.lock");
        let mut holder = Command::new("/bin/sh")
            .args(["-c", "exec 9>>\"$0\" && flock 9 && echo $$ >\"$0\" && echo held && exec cat"])
            .arg(&lock)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut held = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut held).unwrap();
        assert_eq!(held, "held\n");
        let url = format!("sqlite:{}", path.display());
        match open(&url, store.node_id()).await {
            Err(StoreError::Owned { pid, .. }) => assert_eq!(pid, holder.id().to_string()),
            other => panic!("{other:?}"),
        }
        assert!(!path.exists(), "a refused open makes no file");
        holder.kill().unwrap();
        holder.wait().unwrap();
        let opened = open(&url, store.node_id()).await.expect("the holder is dead");
        assert_eq!(std::fs::read_to_string(&lock).unwrap().trim(), std::process::id().to_string());
        opened.close().await;
    }

    async fn a_file_that_is_no_database_is_refused_and_not_written(store: Fixture) {
        let text = "{\"custom_id\":\"1\",\"body\":{}}\n".repeat(400);
        for (name, content) in [("long.jsonl", text.as_str()), ("short.txt", "hello"), ("page", &"x".repeat(4_096))] {
            let path = store.folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            let refusal = open(&format!("sqlite:{}", path.display()), store.node_id()).await.unwrap_err();
            assert_eq!(refusal.class(), Class::Terminal, "{name}: {refusal}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content, "{name} was written");
        }
        let refusal = open(&format!("sqlite:{}", store.folder.path().display()), store.node_id()).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Terminal, "a folder: {refusal}");
    }

    async fn another_programs_database_is_not_migrated_over_its_own_tables(store: Fixture) {
        let path = store.folder.path().join("theirs.db");
        std::fs::File::create(&path).unwrap();
        let theirs = Raw::sqlite(&path).await;
        theirs.exec("CREATE TABLE runs (mine TEXT); INSERT INTO runs VALUES ('precious')").await;
        let refusal = open(&format!("sqlite:{}", path.display()), store.node_id()).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Terminal, "{refusal}");
        assert_eq!(theirs.value("SELECT mine FROM runs").await.as_deref(), Some("precious"));
        assert_eq!(theirs.number("SELECT COUNT(*) FROM sqlite_master WHERE name = 'nodes'").await, 0, "all or nothing");
    }

    async fn an_empty_file_and_a_folder_that_is_missing_become_a_store(store: Fixture) {
        let empty = store.folder.path().join("empty.db");
        std::fs::File::create(&empty).unwrap();
        let deep = store.folder.path().join("a/b c/ж/%20?#.db");
        for path in [&empty, &deep] {
            for scheme in ["sqlite:", "sqlite://"] {
                let opened = open(&format!("{scheme}{}", path.display()), store.node_id()).await.expect("it opens");
                assert_eq!(opened.in_flight().await.unwrap(), []);
                opened.close().await;
            }
            assert!(std::fs::metadata(path).unwrap().len() > 0, "{} is the file that was named", path.display());
        }
    }

    /// WAL is written into the file's header. `synchronous` belongs to a connection and shows from outside
    /// only in its syncs, so here the source is held to what it says: asked for, and read back. What is written
    /// later is synced by the store itself (`Log`); that a sync comes before an answer is seen by
    /// `serve_a_run_is_synced_to_disk_before_it_is_acknowledged_on_sqlite`.
    async fn a_commit_is_on_disk_before_it_is_acknowledged(store: Fixture) {
        assert_eq!(store.raw.value("PRAGMA journal_mode").await.as_deref(), Some("wal"));
        store.close().await;
        let header = std::fs::read(store.folder.path().join("store.db")).unwrap();
        assert_eq!(header[18..20], [2, 2], "both format versions say WAL");
        let source = include_str!("../../src/store/open.rs");
        for line in
            [".journal_mode(SqliteJournalMode::Wal)", ".synchronous(SqliteSynchronous::Full)", "\"PRAGMA synchronous\""]
        {
            assert!(source.contains(line), "{line} is gone from open.rs");
        }
    }

    async fn an_older_file_in_another_journal_mode_is_brought_to_wal(store: Fixture) {
        let path = store.folder.path().join("older.db");
        std::fs::File::create(&path).unwrap();
        let raw = Raw::sqlite(&path).await;
        raw.exec("PRAGMA journal_mode = DELETE; CREATE TABLE t (x)").await;
        let opened = open(&format!("sqlite:{}", path.display()), store.node_id()).await.unwrap();
        assert_eq!(raw.number("SELECT COUNT(*) FROM t").await, 0, "its own tables are left alone");
        assert_eq!(raw.value("PRAGMA journal_mode").await.as_deref(), Some("wal"));
        opened.close().await;
    }

    async fn a_url_that_is_no_store_is_refused_without_its_password(store: Fixture) {
        for url in ["", "sqlite:", "sqlite://", "store.db", "mysql://me:s3cret@host/db", "postgres//me:s3cret@host"] {
            let refusal = open(url, store.node_id()).await.unwrap_err();
            assert!(matches!(refusal, StoreError::BadUrl { .. }), "{url}: {refusal:?}");
            assert_eq!(refusal.class(), Class::Terminal);
        }
        let refusal = open("mysql://me:s3cret@host/db", store.node_id()).await.unwrap_err();
        assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
        let refusal = open("postgres://me:s3cret@host:notaport/db", store.node_id()).await.unwrap_err();
        assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
    }

    /// What a crash leaves: pages in the log that are not in the file yet.
    async fn commits_that_are_only_in_the_log_survive_a_copy_of_both_files(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        let copy = store.folder.path().join("copy.db");
        for suffix in ["", "-wal"] {
            let from = store.folder.path().join(format!("store.db{suffix}"));
            assert!(Path::new(&from).exists(), "{}", from.display());
            std::fs::copy(&from, store.folder.path().join(format!("copy.db{suffix}"))).unwrap();
        }
        let recovered: Store = open(&format!("sqlite:{}", copy.display()), store.node_id()).await.unwrap();
        let row = recovered.batch(&fence.batch).await.unwrap().unwrap();
        assert_eq!(row, store.batch_row(&fence).await);
        recovered.close().await;
    }

    async fn a_torn_tail_of_the_log_loses_nothing_before_it(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        for suffix in ["", "-wal"] {
            let from = store.folder.path().join(format!("store.db{suffix}"));
            std::fs::copy(&from, store.folder.path().join(format!("copy.db{suffix}"))).unwrap();
        }
        let wal = std::fs::OpenOptions::new().append(true).open(store.folder.path().join("copy.db-wal"));
        wal.unwrap().write_all(&[0xa5; 5_000]).unwrap();
        let copy = format!("sqlite:{}", store.folder.path().join("copy.db").display());
        let recovered = open(&copy, NodeId::from_text("node_after")).await.unwrap();
        assert_eq!(recovered.batch(&fence.batch).await.unwrap().unwrap(), store.batch_row(&fence).await);
        recovered.close().await;
    }
}

only_on! { Postgres:
    async fn four_nodes_may_open_one_new_database_at_once(store: Fixture) {
        let url = crate::postgres::cluster().fresh_database();
        let opens = (0..4).map(|_| {
            let (url, node) = (url.clone(), store.node_id());
            tokio::spawn(async move { open(&url, node).await })
        });
        for opened in opens.collect::<Vec<_>>() {
            let opened = opened.await.unwrap().expect("migrations of many nodes wait for each other");
            assert_eq!(opened.in_flight().await.unwrap(), []);
        }
    }

    async fn a_database_that_does_not_exist_is_refused(store: Fixture) {
        let url = format!("{}_none", store.url);
        let refusal = open(&url, store.node_id()).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Terminal, "{refusal}");
        assert!(!refusal.is_unreachable());
    }
}
