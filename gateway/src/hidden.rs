//! Files that are the node's own: what programs of `exec` tasks are not to see.

use crate::cli::Common;
use crate::config::{Config, TaskConfig};
use crate::exit::Failure;
use crate::providers::sim_folder;
use crate::session::store_url;
use actors::executor::exec::{Hidden, OURSELVES};
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a database, and the database.
const OF_SQLITE: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Finds out what keeps them from the programs of this configuration, if it has any that they are to be kept from.
pub fn from_programs(common: &Common, config: &Config) -> Result<Hidden, Failure> {
    let programs: Vec<_> =
        config.tasks.values().filter(|task| task.kind == "exec" && task.sandbox != Some(false)).collect();
    if programs.is_empty() {
        return Ok(Hidden::default());
    }
    let folders: Vec<PathBuf> = programs.iter().filter_map(|task| task.cwd.clone()).collect();
    Ok(Hidden::from_programs(&own(common, config)?, &folders, Path::new(OURSELVES)))
}

/// Why programs of some task can see these files all the same, if they can.
pub fn seen_because(hidden: &Hidden, config: &Config) -> Option<String> {
    let lists = |task: &TaskConfig| task.read_paths.is_some() || task.write_paths.is_some();
    let mut open = config.tasks.iter().filter(|(_, task)| task.kind == "exec" && !lists(task));
    if let Some((name, _)) = open.clone().find(|(_, task)| task.sandbox == Some(false)) {
        return Some(format!("tasks.{name} has no sandbox"));
    }
    open.next().and(hidden.why_not()).map(str::to_owned)
}

/// The store, the simulated provider's, the configuration, and every file that holds a secret.
fn own(common: &Common, config: &Config) -> Result<Vec<PathBuf>, Failure> {
    let settings = named(&common.config).unwrap_or_else(|| PathBuf::from("tidegate.toml"));
    let keys = config.providers.values().map(|provider| &provider.api_key_file);
    let secrets = config.tasks.values().flat_map(|task| [&task.secret_file, &task.previous_secret_file]);
    let files = keys.chain(secrets).chain([&common.store_file]).filter_map(named);
    let more = [sim_folder(common)?, settings].into_iter().chain(files);
    Ok(of_store(&store_url(common)?).into_iter().chain(more).collect())
}

fn named(path: &Option<PathBuf>) -> Option<PathBuf> {
    path.clone().filter(|path| !path.as_os_str().is_empty())
}

/// The files of a database, or those that open one elsewhere.
fn of_store(url: &str) -> Vec<PathBuf> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        // What is kept beside it is beside the file that a link leads to.
        let path = path.canonicalize().unwrap_or(path);
        return OF_SQLITE.map(|suffix| PathBuf::from(format!("{}{suffix}", path.display()))).into();
    }
    let key = url.split(['?', '&']).find_map(|part| part.strip_prefix("sslkey=")).map(PathBuf::from);
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let passwords = variable("PGPASSFILE").or_else(|| Some(variable("HOME")?.join(".pgpass")));
    [key, variable("PGSSLKEY"), passwords].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn s16_the_store_the_settings_and_every_secret_are_the_nodes_own() {
        let cli = Cli::parse_from(["tidegate", "doctor", "--store", "sqlite:/state/a.sqlite"]);
        let config: Config = toml::from_str(
            "[providers.openai]\napi_key_file = \"/keys/openai\"\n[tasks.hook]\nkind = \"http\"\nurl = \"https://x/\"\n\
             secret_file = \"/keys/new\"\nprevious_secret_file = \"/keys/old\"\n",
        )
        .expect("settings");
        let own = own(&cli.common, &config).expect("paths");
        for path in [
            "/state/a.sqlite",
            "/state/a.sqlite-wal",
            "/state/a.sqlite-shm",
            "/state/a.sqlite.sim",
            "tidegate.toml",
            "/keys/openai",
            "/keys/new",
            "/keys/old",
        ] {
            assert!(own.contains(&PathBuf::from(path)), "{path} in {own:?}");
        }
        let elsewhere = of_store("postgres://ann@db/tidegate?sslmode=verify-full&sslkey=/keys/client.pem");
        assert!(elsewhere.contains(&PathBuf::from("/keys/client.pem")), "{elsewhere:?}");
    }
}
