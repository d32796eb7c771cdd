//! Certificates that live as long as a test, for this crate's own tests as well as those of its
//! users' view.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

/// An authority that signs certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for these names and its key, as PEM texts.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, names[0].as_str());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }
}

/// A directory with `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`. The server
/// is `localhost` and `127.0.0.1`.
pub struct Files {
    dir: TempDir,
    pub ca: Ca,
}

impl Files {
    pub fn new() -> Files {
        let ca = Ca::new("a CA of a test");
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir, ca };
        files.write("ca.pem", files.ca.pem());
        files.renew("server", &["localhost", "127.0.0.1"]);
        files.renew("client", &["a client"]);
        files
    }

    /// Writes `NAME.pem` and `NAME.key` anew.
    pub fn renew(&self, name: &str, names: &[&str]) {
        let (certificate, key) = self.ca.issue(names);
        self.write(&format!("{name}.pem"), certificate);
        self.write(&format!("{name}.key"), key);
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
