//! `tidegate dev`: a server to try things on. Its store is a temporary folder that goes with it.

use crate::cli::{Common, DevArgs, ServeArgs};
use crate::config::{Config, ProviderConfig};
use crate::exit::{Exit, Failure};
use crate::sim::{Faults, Sim, SimConfig};
use crate::stdout::print;
use crate::{keys, serve};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// The tasks of a configuration that has none.
const EXAMPLE: &str = include_str!("../../ops/examples/tidegate-dev.toml");
/// How long the simulated provider takes for a batch.
const LATENCY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A server that does not listen by then has said why it does not.
const LOOKS_MAX: u32 = 1_500;

pub fn run(args: &DevArgs, common: &Common, config: &Config) -> Result<Exit, Failure> {
    let cannot = |error: std::io::Error| Failure::new(Exit::StoreFailed, format!("cannot make a folder: {error}"));
    let folder = tempfile::Builder::new().prefix("tidegate-dev-").tempdir().map_err(cannot)?;
    let mut config = config.clone();
    if config.tasks.is_empty() {
        let example: Config = toml::from_str(EXAMPLE).map_err(Failure::usage)?;
        config.tasks = example.tasks;
    }
    let sim = simulated(folder.path(), &mut config)?;
    let store = format!("sqlite:{}", folder.path().join("tidegate.sqlite").display());
    let common = Common { store: Some(store), ..common.clone() };
    let made = crate::batches::with_store(&common, &config, async |store| keys::demo(store).await)?;
    let listen = fixed(args.listen)?;
    let serve_args = ServeArgs {
        listen: Some(listen),
        ops_listen: Some(args.ops_listen),
        role: vec![crate::cli::Role::All],
        auth: None,
    };
    tell_once_it_listens(listen, banner(listen, made.secret.token.reveal(), folder.path()))?;
    let ended = serve::run(&serve_args, &common, &config, serve::OnHangup::End);
    sim.stop();
    ended
}

/// The simulated provider, as one of the configuration's.
fn simulated(folder: &Path, config: &mut Config) -> Result<Sim, Failure> {
    let key_file = folder.join("sim.key");
    let cannot = |error: std::io::Error| Failure::new(Exit::StoreFailed, format!("cannot write a file: {error}"));
    std::fs::write(&key_file, "simulated\n").map_err(cannot)?;
    let sim_config = SimConfig { dir: folder.join("sim"), latency: LATENCY, faults: Faults::default() };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let failed = |error| Failure::new(Exit::Unexpected, format!("cannot start the simulated provider: {error}"));
    let sim = Sim::start(sim_config, listen).map_err(failed)?;
    let provider = ProviderConfig {
        protocol: Some("openai".to_owned()),
        base_url: Some(format!("http://{}/v1", sim.addr())),
        api_key_file: Some(key_file),
        account: Some("sim".to_owned()),
        poll_seconds: Some(0.25),
        ..ProviderConfig::default()
    };
    config.providers.insert("sim".to_owned(), provider);
    Ok(sim)
}

/// A port that the banner can name: with 0 a free one is looked for here.
fn fixed(listen: SocketAddr) -> Result<SocketAddr, Failure> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    let found = TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    found.map_err(|error| Failure::usage(format!("--listen {listen}: cannot listen: {error}")))
}

/// Three lines to try. The key is on stdout, and nowhere else.
fn banner(listen: SocketAddr, key: &str, folder: &Path) -> String {
    let url = format!("http://{listen}");
    let auth = "-H \"Authorization: Bearer $TIDEGATE_API_KEY\"";
    format!(
        "\
Tidegate is at {url}, its documentation at {url}/api/docs.
Everything is in {folder} and goes when this ends.

  export TIDEGATE_SERVER={url}
  export TIDEGATE_API_KEY={key}

  curl {auth} {url}/api/v1/tasks
  curl {auth} -H 'Content-Type: application/json' -d '{{\"task\":\"noop\"}}' {url}/api/v1/runs
  curl {auth} '{url}/api/v1/runs?limit=5'

or: tidegate runs create noop --wait
",
        folder = folder.display()
    )
}

/// Prints the banner when its lines would work.
fn tell_once_it_listens(listen: SocketAddr, banner: String) -> Result<(), Failure> {
    let telling = std::thread::Builder::new().name("dev-banner".to_owned()).spawn(move || {
        for _ in 0..LOOKS_MAX {
            if TcpStream::connect_timeout(&listen, LOOK_EVERY).is_ok() {
                // Nobody who could be told is left if this fails.
                let _ = print(&banner);
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    });
    telling.map(drop).map_err(|error| Failure::new(Exit::Unexpected, format!("cannot start a thread: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_configuration_is_valid_and_has_a_task_of_each_kind() {
        let config: Config = toml::from_str(EXAMPLE).expect("it parses");
        assert_eq!(crate::tasks::wrong(&config.tasks), Vec::<String>::new());
        let kinds: std::collections::BTreeSet<_> = config.tasks.values().map(|task| task.kind.as_str()).collect();
        assert!(["noop", "exec", "http", "pull"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    }

    #[test]
    fn the_banner_has_three_lines_for_curl_and_shows_the_key_once() {
        let banner = banner(SocketAddr::from(([127, 0, 0, 1], 7070)), "tg_secret", Path::new("/tmp/x"));
        assert_eq!(banner.lines().filter(|line| line.trim().starts_with("curl ")).count(), 3);
        assert_eq!(banner.matches("tg_secret").count(), 1);
    }
}
