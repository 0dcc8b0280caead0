//! What this machine can do in this minute: the two costs that bound a secrets server, an fsync and a signature.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use tokio::time::Instant;

use crate::histogram::Histogram;
use crate::{Fault, usage};

const APPENDED_BYTES: usize = 300;
const FSYNC_FOR: Duration = Duration::from_millis(500);
const SIGN_FOR: Duration = Duration::from_millis(700);

/// One calibration.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Calibration {
    /// RSA-2048 PKCS#1 signatures per second on one processor.
    pub rsa_sign_per_s: f64,
    /// The same on all processors at once.
    pub rsa_sign_per_s_all_cores: f64,
    /// `fdatasync` after an append of 300 bytes, median.
    pub fdatasync_p50_ms: f64,
    /// The same, 99th percentile.
    pub fdatasync_p99_ms: f64,
}

/// Measures, with a file in `folder`. Takes about two seconds.
pub fn calibrate(folder: &Path) -> Result<Calibration, Fault> {
    let syncs = fdatasyncs(folder)?;
    let key = RsaKeyPair::generate(KeySize::Rsa2048)
        .map_err(|_unspecified| Fault::Tls("cannot make an RSA key".to_owned()))?;
    let alone = signatures_per_second(&key);
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..usage::cores()).map(|_| scope.spawn(|| signatures_per_second(&key))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
    });
    Ok(Calibration {
        rsa_sign_per_s: alone,
        rsa_sign_per_s_all_cores: together,
        fdatasync_p50_ms: millis(syncs.quantile(500)),
        fdatasync_p99_ms: millis(syncs.quantile(990)),
    })
}

/// A duration in milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn fdatasyncs(folder: &Path) -> Result<Histogram, Fault> {
    let path = folder.join("calibration");
    let mut file = File::create(&path).map_err(Fault::path("create", &path))?;
    let mut latencies = Histogram::new();
    let end = Instant::now() + FSYNC_FOR;
    while Instant::now() < end {
        file.write_all(&[0x5a; APPENDED_BYTES]).map_err(Fault::path("write", &path))?;
        let start = Instant::now();
        file.sync_data().map_err(Fault::path("sync", &path))?;
        latencies.record(start.elapsed());
    }
    std::fs::remove_file(&path).map_err(Fault::path("remove", &path))?;
    Ok(latencies)
}

fn signatures_per_second(key: &RsaKeyPair) -> f64 {
    let random = SystemRandom::new();
    let mut signature = vec![0; key.public_modulus_len()];
    let start = Instant::now();
    let mut signed: u64 = 0;
    while start.elapsed() < SIGN_FOR {
        let message = signed.to_be_bytes();
        if key.sign(&RSA_PKCS1_SHA256, &random, &message, &mut signature).is_err() {
            return 0.0;
        }
        signed += 1;
    }
    signed as f64 / start.elapsed().as_secs_f64()
}
