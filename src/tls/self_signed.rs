//! Owns the certificate that neap makes itself, for trying things out: made once, kept, made anew when it must be.
//! Must not know who trusts it: nobody does, unless told to.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};

use super::certificates::Files;
use super::pair::Pair;

/// How long one is good for, and how long before its end another is made at a start.
const DAYS: i64 = 365;
const DAYS_LEFT: i64 = 30;
const DAY: i64 = 24 * 60 * 60;
/// What every one is made out for.
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate that neap makes for these names, and keeps in this directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelfSigned {
    /// Beside `localhost` and the loopback addresses.
    pub names: Vec<String>,
    pub dir: PathBuf,
}

impl SelfSigned {
    /// Whether a certificate can be made out for these names: hosts, `*.` in front of one, or addresses.
    pub fn check(&self) -> Result<(), String> {
        match self.names.iter().find(|name| !is_name(name)) {
            None => Ok(()),
            Some(bad) => Err(format!(
                "\"{bad}\" is no name for a certificate: write a host, as in \"dev.example.com\" or \"*.example.com\", or an address"
            )),
        }
    }

    /// The files, which are made where there are none that will do. `now` is in seconds of Unix time.
    pub(super) fn ensure(&self, now: i64) -> io::Result<Files> {
        let files = Files { cert: self.dir.join("self-signed.pem"), key: self.dir.join("self-signed.key") };
        match files.load() {
            Ok(pair) if self.will_do(&pair, now) => {}
            Ok(_) | Err(_) => self.make(&files, now)?,
        }
        Ok(files)
    }

    /// As a certificate has them.
    fn all_names(&self) -> BTreeSet<String> {
        let spelled = |name: &str| match name.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name.to_ascii_lowercase(),
        };
        ALWAYS.into_iter().chain(self.names.iter().map(String::as_str)).map(spelled).collect()
    }

    fn will_do(&self, pair: &Pair, now: i64) -> bool {
        let has: BTreeSet<String> =
            pair.names.iter().cloned().chain(pair.addresses.iter().map(ToString::to_string)).collect();
        pair.not_after - now > DAYS_LEFT * DAY && has == self.all_names()
    }

    fn make(&self, files: &Files, now: i64) -> io::Result<()> {
        let (cert, key) = self.generate(now).map_err(io::Error::other)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        // The key first: with a certificate of another it would be refused, and made anew at the next start.
        write(&files.key, &key)?;
        write(&files.cert, &cert)?;
        tracing::info!(cert = %files.cert.display(), "made a self-signed certificate; clients must be told to trust it");
        Ok(())
    }

    /// Certificate and key, in PEM.
    fn generate(&self, now: i64) -> Result<(String, String), String> {
        let told = |error: rcgen::Error| error.to_string();
        let names: Vec<String> = self.all_names().into_iter().collect();
        let mut params = CertificateParams::new(names).map_err(told)?;
        params.distinguished_name.push(DnType::CommonName, "neap self-signed");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // A day early, for clocks that are behind.
        let ((year, month, first), (end_year, end_month, last)) = (day(now - DAY)?, day(now + DAYS * DAY)?);
        params.not_before = rcgen::date_time_ymd(year, month, first);
        params.not_after = rcgen::date_time_ymd(end_year, end_month, last);
        let key = KeyPair::generate().map_err(told)?;
        let cert = params.self_signed(&key).map_err(told)?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}

/// Year, month and day, in UTC.
fn day(seconds: i64) -> Result<(i32, u8, u8), String> {
    let time = jiff::Timestamp::from_second(seconds).map_err(|error| error.to_string())?;
    let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    Ok((i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs()))
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(good);
    let host = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label))
}

/// Writes beside and renames, so that nobody sees a half.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
