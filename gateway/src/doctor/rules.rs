//! Rules for Prometheus and boards for Grafana: whether those in use are of this version.

use super::Check;
use actors::metrics::CATALOGUE;
use std::collections::BTreeSet;
use std::path::Path;

const FILES: [&str; 4] =
    ["prometheus/rules.yaml", "grafana/overview.json", "grafana/internals.json", "grafana/llm-spend.json"];
/// What a histogram appends to its name.
const PARTS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// Looks at those of a folder that is laid out as `ops/` is. `None` when there is no such file.
pub fn check(folder: &Path) -> Option<Check> {
    let mut seen = 0;
    let mut unknown = Vec::new();
    for name in FILES {
        let Ok(text) = std::fs::read_to_string(folder.join(name)) else { continue };
        seen += 1;
        unknown.extend(strangers(&text).into_iter().map(|metric| format!("{metric} ({name})")));
    }
    (seen > 0).then(|| verdict(folder, seen, &unknown))
}

fn verdict(folder: &Path, seen: usize, unknown: &[String]) -> Check {
    const NAME: &str = "rules and boards";
    let Some(first) = unknown.first() else {
        return Check::ok(NAME, format!("{seen} files in {} name only what this version measures", folder.display()));
    };
    let what = format!("{} metrics that this version does not have, such as {first}", unknown.len());
    Check::warn(NAME, what, "load the rules and boards of the same release as this binary")
}

/// Metrics of ours that are not in the catalogue.
fn strangers(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text
        .split(|c| !is_part(c))
        .filter(|word| word.starts_with("tidegate_") && !word.contains(':') && word.matches('_').count() > 1);
    let known = |name: &str| CATALOGUE.iter().any(|metric| metric.name == name);
    let is_known = |word: &str| known(word) || PARTS.iter().any(|part| word.strip_suffix(part).is_some_and(known));
    words.filter(|word| !is_known(word)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_metric_of_another_version_is_named() {
        let metric = CATALOGUE[0].name;
        assert!(strangers(&format!("expr: rate({metric}_bucket[5m]) / {metric}")).is_empty());
        let other = strangers("sum(tidegate_no_such_thing_total) by (tidegate:of:rules)");
        assert_eq!(other.into_iter().collect::<Vec<_>>(), ["tidegate_no_such_thing_total"]);
        assert_eq!(verdict(Path::new("ops"), 4, &[]).verdict, Verdict::Ok);
        assert_eq!(verdict(Path::new("ops"), 4, &["x".to_owned()]).verdict, Verdict::Warn);
    }

    #[test]
    fn the_files_of_this_version_are_of_this_version() {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops");
        assert_eq!(check(&ours).map(|check| check.verdict), Some(Verdict::Ok));
        assert_eq!(check(Path::new("/nowhere")), None);
    }
}
