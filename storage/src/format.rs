//! The version of everything on disk, as one line of text in the file `format`. Older versions are
//! brought up to date one step at a time; newer ones are refused.
//!
//! To add a version: raise [`CURRENT`], append to [`STEPS`] the function that turns the version
//! before into it (it must stand being repeated after a crash), and keep a folder of the old version
//! as a test.

use crate::datadir::Datadir;
use crate::error::Fault;

/// The version this program writes.
pub const CURRENT: u32 = 1;

/// `STEPS[n]` turns version `n + 1` into `n + 2`.
const STEPS: [Step; CURRENT as usize - 1] = [];

type Step = fn(&Datadir) -> Result<(), Fault>;

const HEAD: &str = "conclave data format ";

/// Checks the folder's version, writes it when the folder is new, upgrades when it is old.
pub(crate) fn bring_up_to_date(datadir: &Datadir) -> Result<(), Fault> {
    let path = datadir.format();
    let what = path.display().to_string();
    let Some(bytes) = datadir.disk().read(&path, 64)? else {
        for folder in [datadir.log(), datadir.state(), datadir.marker()] {
            if datadir.disk().file(&folder, false).is_ok_and(|file| file.is_some())
                || !datadir.disk().list(&folder).unwrap_or_default().is_empty()
            {
                return Err(Fault::corrupt(what, "it is missing beside data"));
            }
        }
        return write(datadir, CURRENT);
    };
    let found: u32 = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.strip_prefix(HEAD)?.strip_suffix('\n')?.parse().ok())
        .filter(|version| *version > 0)
        .ok_or_else(|| Fault::corrupt(&what, "it does not name a version"))?;
    if found > CURRENT {
        return Err(Fault::TooNew { what: "this data folder".to_owned(), found, known: CURRENT });
    }
    for (version, step) in (2u32..).zip(STEPS).skip(found as usize - 1) {
        tracing::info!(version, "upgrading the data folder");
        step(datadir)?;
        write(datadir, version)?;
    }
    Ok(())
}

fn write(datadir: &Datadir, version: u32) -> Result<(), Fault> {
    datadir.disk().replace(&datadir.format(), format!("{HEAD}{version}\n").as_bytes())
}
