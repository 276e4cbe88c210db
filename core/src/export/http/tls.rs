//! TLS by rustls, below the requests.
//!
//! Files that are named by the options are read for each connection, of which there is one a minute: a certificate that is
//! replaced while the program runs is used at once, and nothing of it stays in memory in between. The system's roots are
//! read once, at the start: where they are is said by the environment, which the host may be changing later.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::wire::{Timed, Wire};
use crate::export::small_file::small_file;

/// A bundle of all roots that there are has some 300 KiB.
const MOST_BYTES: u64 = 4 << 20;

/// Whom to trust, and how to be known.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Trust {
    /// The roots instead of the system's.
    pub(in super::super) roots: Option<PathBuf>,
    /// Our certificate, with its chain.
    pub(in super::super) certificate: Option<PathBuf>,
    pub(in super::super) key: Option<PathBuf>,
    /// The protocol above that the other side has to agree to.
    pub(in super::super) alpn: Option<&'static [u8]>,
}

/// The system's roots, since the first check.
static SYSTEMS: OnceLock<Arc<RootCertStore>> = OnceLock::new();

/// A connection with TLS, which may be within that to a proxy.
pub(super) struct Stream(StreamOwned<ClientConnection, Wire>);

impl Stream {
    pub(super) fn timed(&mut self) -> &mut Timed {
        self.0.sock.timed()
    }
}

impl Read for Stream {
    /// Without a write before it, as the library's own has it: who does not take our words any more may have said why.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.conn.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            let is_end = self.0.conn.read_tls(&mut self.0.sock)? == 0;
            let told = self.0.conn.process_new_packets();
            told.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if is_end && self.0.conn.wants_read() {
                return Ok(0);
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Trust {
    /// Whether a connection could begin with these files; else what is wrong with them.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        self.config().map(|_| ())
    }

    fn config(&self) -> Result<ClientConfig, String> {
        // Ours by name: a process-wide choice is the host's to make.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?);
        match (&self.certificate, &self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(certificate), Some(key)) => {
                let wrong = |error: rustls::Error| format!("{} and its key: {error}", certificate.display());
                builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?).map_err(wrong)
            }
            _ => Err("a certificate goes with its key: give both or none".to_string()),
        }
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        if let Some(path) = &self.roots {
            return store(certificates(path)?)
                .ok_or_else(|| format!("{} has no certificate to trust", path.display()));
        }
        if let Some(known) = SYSTEMS.get() {
            return Ok(known.clone());
        }
        let roots = store(rustls_native_certs::load_native_certs().certs)
            .ok_or("the system has no certificates to trust: install its ca-certificates")?;
        // Loaded outside of its lock, which a fork could leave locked.
        let _ = SYSTEMS.set(roots.clone());
        Ok(roots)
    }

    /// Shakes hands, up to the moment at which a request can be written.
    pub(super) fn wrap(&self, host: &str, stream: Wire) -> Result<Stream, String> {
        let name = ServerName::try_from(host.to_string()).map_err(|_| "no name for TLS".to_string())?;
        let mut config = self.config()?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| format!("no TLS: {error}"))?;
        }
        match self.alpn == stream.conn.alpn_protocol() {
            true => Ok(Stream(stream)),
            false => Err("no HTTP/2 there, which gRPC needs".to_string()),
        }
    }
}

/// None where there is nothing to trust. Among the system's some may be of old sorts.
fn store(found: Vec<CertificateDer<'static>>) -> Option<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found);
    (added > 0).then(|| Arc::new(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = small_file(path, MOST_BYTES)
        .map_err(|error| format!("{} could not be read: {error}", path.display()))?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => Err(format!("{} has no certificate", path.display())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{} could not be read: {error}", path.display())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The error is left out: it may show what it could not read.
    let pem = small_file(path, MOST_BYTES)
        .map_err(|error| format!("{} could not be read: {error}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| format!("{} is not a private key in PEM", path.display()))
}
