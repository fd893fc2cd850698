//! What the system knows of this process, under the names that all Prometheus clients use. Read when somebody asks.

use actors::metrics::{
    CATALOGUE, PROCESS_CPU, PROCESS_FDS, PROCESS_FDS_MAX, PROCESS_MEMORY, PROCESS_START, PROCESS_THREADS,
    PROCESS_VIRTUAL,
};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use storage::boot_clock::since_boot;
use storage::model::{Clock, SystemClock};

/// All of it in Prometheus text; what cannot be read is left out.
pub fn text() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // One more is open while they are counted.
    let open = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1) as f64);
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let values = [
        (PROCESS_CPU, Some(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9)),
        (PROCESS_MEMORY, kibibytes(&status, "VmRSS:")),
        (PROCESS_VIRTUAL, kibibytes(&status, "VmSize:")),
        (PROCESS_FDS, open.ok()),
        (PROCESS_FDS_MAX, getrlimit(Resource::Nofile).current.map(|most| most as f64)),
        (PROCESS_THREADS, number(&status, "Threads:")),
        (PROCESS_START, ticks_at_start(&stat).map(started_at)),
    ];
    values.into_iter().filter_map(|(name, value)| Some(sample(name, value?))).collect()
}

fn sample(name: &str, value: f64) -> String {
    let metric = CATALOGUE.iter().find(|metric| metric.name == name);
    let (help, kind) = metric.map_or(("", "untyped"), |metric| (metric.help, metric.kind.word()));
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n")
}

fn number(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    number(status, name).map(|count| count * 1_024.0)
}

/// Clock ticks from boot to the start of the process. The program's name before it may hold anything.
fn ticks_at_start(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn started_at(ticks: f64) -> f64 {
    let age = since_boot().as_secs_f64() - ticks / clock_ticks_per_second() as f64;
    SystemClock.now().millis() as f64 / 1_000.0 - age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_does_not_move_the_fields_after_it() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a ) b) {}", fields.join(" "));
        assert_eq!(ticks_at_start(&stat), Some(22.0));
    }

    #[test]
    fn this_process_has_every_value_and_they_are_plausible() {
        let text = text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
        };
        for metric in CATALOGUE.iter().filter(|metric| metric.name.starts_with("process_")) {
            assert!(value(metric.name) > 0.0, "{}", metric.name);
        }
        let age = SystemClock.now().millis() as f64 / 1_000.0 - value(PROCESS_START);
        assert!((-1.0..600.0).contains(&age), "{age}");
        assert!(value(PROCESS_MEMORY) < value(PROCESS_VIRTUAL) && value(PROCESS_FDS) < value(PROCESS_FDS_MAX));
    }
}
