//! From the options to the exporters.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::http::{Trust, base64, check_grpc};
use super::server::{Manner, ServerExporter};
use super::{Exporter, FileExporter, ambient, datadog, google, proxy};
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Options, Protocol, Target, Url};
use crate::store::Retention;

/// Where profiles go, by the options.
pub(crate) struct Destinations {
    /// Makes the exporters: anew in the child of a fork.
    pub(crate) make: Arc<dyn Fn() -> Vec<Box<dyn Exporter>> + Send + Sync>,
    /// What to say about it, without secrets.
    pub(crate) told: String,
    /// The local directories among them.
    pub(crate) directories: Vec<PathBuf>,
    /// What is allowed, and should be known.
    pub(crate) warnings: Vec<String>,
    /// The server that says itself when it wants a profile.
    pub(crate) google: Option<google::Plan>,
}

impl Destinations {
    /// Exporters that the program has made itself.
    pub(crate) fn of_the_program(make: Arc<dyn Fn() -> Vec<Box<dyn Exporter>> + Send + Sync>) -> Self {
        let told = "the program's exporters".to_string();
        Self { make, told, directories: Vec::new(), warnings: Vec::new(), google: None }
    }
}

/// One of them, ready to be made.
#[derive(Clone)]
enum Made {
    Directory(PathBuf, Retention),
    Server(String, Protocol, Url, Box<Manner>),
}

/// The exporters that the option `push` names, for a program that adds its own. `google` is none of them: nothing of periods
/// goes there.
///
/// ```no_run
/// use everprof::export::{self, Exporter};
/// # fn my_own() -> Box<dyn Exporter> { unimplemented!() }
/// let options = everprof::Options::from_env()?;
/// export::of_options(&options)?; // wrong here, or never
/// let make = move || {
///     let mut exporters = export::of_options(&options).unwrap_or_default();
///     exporters.push(my_own());
///     exporters
/// };
/// let profiler = everprof::Profiler::builder().exporters(make).start()?;
/// # Ok::<(), everprof::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Unsupported`] for `https` where this build has no TLS, [`ErrorKind::InvalidOption`] where it cannot begin with
/// the roots, the certificate or the key.
pub fn of_options(options: &Options) -> Result<Vec<Box<dyn Exporter>>> {
    Ok((destinations(options)?.make)())
}

/// Where profiles go, or why they cannot.
pub(crate) fn destinations(options: &Options) -> Result<Destinations> {
    let retention = Retention { age: options.retention_days.duration(), bytes: options.max_bytes.get() };
    let (mut made, mut told, mut directories, mut warnings) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut asked = None;
    let wrong = |name: &str, problem: &str| unfit(ErrorKind::InvalidOption, name, problem);
    let mut directory = |path: &Path, told: &mut Vec<String>| {
        directories.push(path.to_path_buf());
        told.push(format!("the directory {}", path.display()));
        Made::Directory(path.to_path_buf(), retention)
    };
    for target in options.push.targets() {
        let found;
        let target = match target {
            Target::Found(protocol) => {
                let url = match protocol {
                    Protocol::Google => google::place(),
                    _ => datadog::place_here(&ambient::var),
                };
                let url = url.map_err(|problem| wrong(&target.shown(), &problem))?;
                found = Target::Server(*protocol, url);
                &found
            }
            named => named,
        };
        made.push(match target {
            // Those are servers by now.
            Target::Found(_) => continue,
            Target::Dir => directory(&options.dir, &mut told),
            Target::File(path) => directory(path, &mut told),
            Target::Server(protocol, url) => {
                let name = target.shown();
                let mut manner = manner(options, *protocol, url).map_err(|problem| wrong(&name, &problem))?;
                manner.by_proxy(options, url).unwrap_or_else(|warning| warnings.push(warning));
                if protocol.is_grpc() {
                    check_grpc().map_err(|problem| unfit(ErrorKind::Unsupported, &name, &problem))?;
                }
                if url.is_secure {
                    manner.trust.check().map_err(|problem| unfit(WRONG_TLS, &name, &problem))?;
                }
                let tells = manner.authorization.is_some() || !manner.headers.is_empty();
                if tells && !url.is_secure && !is_loopback(url) {
                    warnings.push(format!(
                        "{name} gets credentials or headers without encryption: use https, or grpcs"
                    ));
                }
                if *protocol == Protocol::Put && !url.path.contains("{id}") {
                    let missing: Vec<&str> =
                        ["{time}", "{kind}", "{instance}"].into_iter().filter(|part| !url.path.contains(part)).collect();
                    if !missing.is_empty() {
                        warnings.push(format!(
                            "{name}: profiles take each other's place there, since its path has no {}: add that, or {{id}}",
                            missing.join(", ")
                        ));
                    }
                }
                if *protocol == Protocol::Pyroscope && options.period_s.duration() > LONGEST_TO_PYROSCOPE {
                    warnings.push(format!(
                        "{name} takes nothing that began an hour ago, and would take no profile: make period_s {} at the most",
                        LONGEST_TO_PYROSCOPE.as_secs()
                    ));
                }
                told.push(name.clone());
                if *protocol == Protocol::Google {
                    // The server of tokens is one of TLS, whatever this one is: the system's roots are read now.
                    let _ = manner.trust.check();
                    let plan = google::Plan::new(
                        name.clone(),
                        url.clone(),
                        options,
                        manner.trust,
                        manner.secrets,
                        &ambient::var,
                    );
                    if asked.replace(plan.map_err(|problem| wrong(&name, &problem))?).is_some() {
                        return Err(wrong(&name, "give one place of Google's only"));
                    }
                    continue;
                }
                Made::Server(name, *protocol, url.clone(), Box::new(manner))
            }
        });
    }
    let told = if told.is_empty() { "nowhere: it can be fetched only".to_string() } else { told.join(", ") };
    Ok(Destinations {
        make: Arc::new(move || made.iter().map(make).collect()),
        told,
        directories,
        warnings,
        google: asked,
    })
}

fn make(made: &Made) -> Box<dyn Exporter> {
    match made.clone() {
        Made::Directory(path, retention) => Box::new(FileExporter::new(path, retention)),
        Made::Server(name, protocol, url, manner) => {
            Box::new(ServerExporter::new(name, protocol, url, *manner))
        }
    }
}

fn manner(options: &Options, protocol: Protocol, url: &Url) -> std::result::Result<Manner, String> {
    let mut headers: Vec<(String, String)> =
        options.push_headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut secrets = secrets(options);
    const KEY: &str = "dd-api-key";
    if protocol == Protocol::Datadog && datadog::is_intake(url) && headers.iter().all(|(name, _)| name != KEY)
    {
        let key = datadog::key(options.push_token.reveal(), &ambient::var)?;
        secrets.push(key.clone());
        headers.push((KEY.to_string(), key));
    }
    let authorization = match &url.user {
        Some((user, password)) => Some(format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))),
        // An agent asks for nothing, and the intake for a header of its own.
        None if protocol == Protocol::Datadog => None,
        None if options.push_token.is_set() => Some(format!("Bearer {}", options.push_token.reveal())),
        None => None,
    };
    Ok(Manner {
        authorization,
        tenant: options.push_tenant.as_str().to_string(),
        headers,
        guarantee: options.push_delivery,
        trust: Trust {
            roots: options.push_roots.clone(),
            certificate: options.push_certificate.clone(),
            key: options.push_key.clone(),
            alpn: None,
        },
        proxy: None,
        external: ambient::var(datadog::EXTERNAL),
        secrets,
    })
}

impl Manner {
    /// Goes by the proxy that the options or the environment name for this server.
    fn by_proxy(&mut self, options: &Options, url: &Url) -> std::result::Result<(), String> {
        self.proxy = proxy::of(url, options.push_proxy.choice(), &ambient::var)?;
        self.secrets.extend(self.proxy.iter().flat_map(proxy::secrets));
        Ok(())
    }
}

fn unfit(kind: ErrorKind, name: &str, problem: &str) -> Error {
    Error::new(kind, format!("push: {name}: {problem}"))
}

/// A profile is as old as the beginning of its period, and has to be sent yet.
const LONGEST_TO_PYROSCOPE: Duration = Duration::from_secs(50 * 60);

/// What is wrong about TLS, if this build has it.
const WRONG_TLS: ErrorKind =
    if cfg!(feature = "tls") { ErrorKind::InvalidOption } else { ErrorKind::Unsupported };

/// Every secret of the options, also those for other servers: one that is asked by two names may know both.
fn secrets(options: &Options) -> Vec<String> {
    let mut secrets = vec![options.push_token.reveal().to_string()];
    secrets.extend(options.push_headers.iter().map(|(_, value)| value.to_string()));
    for target in options.push.targets() {
        let Target::Server(_, url) = target else { continue };
        secrets.extend(proxy::secrets(url));
        let (path, query) = url.path_and_query();
        // Some servers have their secrets in paths, which are long then.
        secrets.extend(path.split('/').filter(|part| part.len() >= 16).map(str::to_string));
        if let Some(query) = query {
            secrets.push(query.to_string());
            secrets.extend(
                query.split('&').filter_map(|pair| pair.split_once('=')).map(|(_, value)| value.to_string()),
            );
        }
    }
    secrets
}

fn is_loopback(url: &Url) -> bool {
    url.socket.is_some()
        || url.host == "localhost"
        || url.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(push: &str) -> Options {
        let mut options = Options::default();
        options.set("push", push).unwrap();
        options.set("push_token", "sesame-open").unwrap();
        options.set("push_proxy", "off").unwrap();
        options
    }

    #[test]
    fn long_parts_of_paths_are_secrets_whatever_the_protocol() {
        for protocol in ["pyroscope", "parca", "otlp", "datadog", "post", "put"] {
            let secrets = secrets(&options(&format!("{protocol}+http://h/base/0123456789abcdef0123/x")));
            assert_eq!(secrets, ["sesame-open", "0123456789abcdef0123"], "{protocol}");
        }
    }

    #[test]
    fn a_user_without_a_password_is_a_secret() {
        let basic = base64(b"glc_token:");
        assert_eq!(secrets(&options("post+http://glc_token@h/x")), ["sesame-open", "glc_token", &basic]);
        let basic = base64(b"shop:sesame");
        assert_eq!(secrets(&options("post+http://shop:sesame@h/x")), ["sesame-open", "sesame", &basic]);
    }

    #[test]
    fn places_where_profiles_replace_each_other_are_warned_of() {
        let warnings =
            |path: &str| destinations(&options(&format!("put+http://localhost{path}"))).unwrap().warnings;
        assert_eq!(warnings("/p/{service}/{id}.pb.gz"), [""; 0]);
        assert_eq!(warnings("/p/{instance}/{time}-{kind}.pb.gz"), [""; 0]);
        let warned = warnings("/p/{service}/{time}.pb.gz");
        assert!(warned.len() == 1 && warned[0].contains("no {kind}, {instance}:"), "{warned:?}");
    }

    #[test]
    fn periods_that_are_too_long_for_pyroscope_are_warned_of() {
        let warnings = |push: &str, seconds: &str| {
            let mut options = options(push);
            options.set("period_s", seconds).unwrap();
            destinations(&options).unwrap().warnings.concat()
        };
        let warning = warnings("pyroscope+http://localhost", "3001");
        assert!(warning.contains("make period_s 3000 at the most"), "{warning}");
        assert_eq!(warnings("pyroscope+http://localhost", "3000"), "");
        assert_eq!(warnings("parca+http://localhost", "3600"), "");
    }

    #[test]
    fn credentials_without_encryption_are_warned_of() {
        let warnings = |push: &str| destinations(&options(push)).map(|found| found.warnings.len());
        assert_eq!(warnings("post+http://far.example").unwrap(), 1);
        assert_eq!(warnings("post+http://localhost").unwrap(), 0);
        // Where this build has TLS, and the machine roots.
        if let Ok(count) = warnings("post+https://far.example") {
            assert_eq!(count, 0);
        }
    }
}
