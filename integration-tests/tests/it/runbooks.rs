//! Runbooks and manuals: whatever command stands in one is carried out, in its order, in the very situation that its page
//! is about, and ends as the page says. A page without a situation fails, and so does a command that nobody carries out.

mod page;
mod batches;
mod fleet;
mod trouble;
mod guides;
mod restore;
mod documents;

use page::{Page, root};
use std::collections::BTreeSet;

/// Each page and what is played for it.
macro_rules! runbooks {
    ($($test:ident: $page:literal => $play:path,)+) => {
        const PLAYED: &[&str] = &[$($page),+];

        $(#[test]
        fn $test() {
            $play(Page::open($page));
        })+
    };
}

runbooks! {
    the_runbook_backup_is_carried_out: "backup" => restore::backup,
    the_runbook_batch_near_expiry_is_carried_out: "batch-near-expiry" => batches::near_expiry,
    the_runbook_batch_unknown_is_carried_out: "batch-unknown" => batches::unknown,
    the_runbook_buffer_stuck_is_carried_out: "buffer-stuck" => trouble::buffer_stuck,
    the_runbook_capacity_is_carried_out: "capacity" => guides::capacity,
    the_runbook_database_is_carried_out: "database" => trouble::database,
    the_runbook_down_is_carried_out: "down" => trouble::down,
    the_runbook_errors_is_carried_out: "errors" => fleet::errors,
    the_runbook_game_day_is_carried_out: "game-day" => guides::game_day,
    the_runbook_incident_is_carried_out: "incident" => guides::incident,
    the_runbook_job_suspended_is_carried_out: "job-suspended" => batches::job_suspended,
    the_runbook_leases_lost_is_carried_out: "leases-lost" => fleet::leases_lost,
    the_runbook_nobody_sweeps_is_carried_out: "nobody-sweeps" => fleet::nobody_sweeps,
    the_runbook_queue_stalled_is_carried_out: "queue-stalled" => trouble::queue_stalled,
    the_runbook_restart_storm_is_carried_out: "restart-storm" => trouble::restart_storm,
    the_runbook_restore_is_carried_out: "restore" => restore::restore,
    the_runbook_results_quarantined_is_carried_out: "results-quarantined" => batches::results_quarantined,
    the_runbook_security_is_carried_out: "security" => guides::security,
    the_runbook_spend_is_carried_out: "spend" => batches::spend,
    the_runbook_upgrade_is_carried_out: "upgrade" => guides::upgrade,
    the_runbook_watchdog_is_carried_out: "watchdog" => drop,
}

#[test]
fn every_runbook_has_a_situation() {
    let files = std::fs::read_dir(root().join("ops/runbooks")).expect("the runbooks").flatten();
    let pages: BTreeSet<String> =
        files.map(|file| file.file_name().to_string_lossy().trim_end_matches(".md").to_owned()).collect();
    assert_eq!(pages, PLAYED.iter().map(|name| (*name).to_owned()).collect());
}
