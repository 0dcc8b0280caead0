//! Timestamps as the API writes them, all UTC.

use conclave_domain::time::Timestamp;
use time::format_description::well_known::Iso8601;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millisecond: i64,
}

/// Splits a timestamp into calendar fields (the proleptic Gregorian calendar; days are counted from
/// the first of March of year 0, so that the leap day is the last of its year).
fn civil(at: Timestamp) -> Civil {
    let (days, in_day) = (at.0.div_euclid(86_400_000), at.0.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil {
        year,
        month,
        day,
        hour: in_day / 3_600_000,
        minute: in_day / 60_000 % 60,
        second: in_day / 1000 % 60,
        millisecond: in_day % 1000,
    }
}

/// `2017-08-07T22:30:00.145+00:00`, as in JSON documents.
pub(crate) fn with_offset(at: Timestamp) -> String {
    let c = civil(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}+00:00",
        c.year, c.month, c.day, c.hour, c.minute, c.second, c.millisecond
    )
}

/// `2017-08-07T22:30:00Z`, as for expirations and the age of API keys.
pub(crate) fn whole_seconds(at: Timestamp) -> String {
    let c = civil(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        c.year, c.month, c.day, c.hour, c.minute, c.second
    )
}

/// `2017-08-07T22:30:00.145Z`, as in audit records.
pub(crate) fn milliseconds(at: Timestamp) -> String {
    let c = civil(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        c.year, c.month, c.day, c.hour, c.minute, c.second, c.millisecond
    )
}

/// Reads an ISO 8601 date with or without time, fraction and zone; without a zone it is UTC.
pub(crate) fn parse_iso8601(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let at = OffsetDateTime::parse(text, &Iso8601::PARSING)
        .or_else(|_no_zone| {
            PrimitiveDateTime::parse(text, &Iso8601::PARSING).map(PrimitiveDateTime::assume_utc)
        })
        .or_else(|_no_time| {
            let date = Date::parse(text, &Iso8601::PARSING)?;
            Ok::<_, time::error::Parse>(PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_utc())
        })
        .ok()?;
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_as_clients_read_them() {
        let at = Timestamp(1_502_145_000_145);
        assert_eq!(with_offset(at), "2017-08-07T22:30:00.145+00:00");
        assert_eq!(whole_seconds(at), "2017-08-07T22:30:00Z");
        assert_eq!(milliseconds(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(whole_seconds(Timestamp(951_782_400_000)), "2000-02-29T00:00:00Z");
        assert_eq!(whole_seconds(Timestamp(-1000)), "1969-12-31T23:59:59Z");
        assert_eq!(whole_seconds(Timestamp(4_107_542_399_000)), "2100-02-28T23:59:59Z");
    }

    #[test]
    fn dates_are_read_as_clients_write_them() {
        let read = |text| parse_iso8601(text).map(milliseconds);
        for (text, expected) in [
            ("2050-12-31T01:02:03Z", "2050-12-31T01:02:03.000Z"),
            ("2050-12-31T01:02:03+01:00", "2050-12-31T00:02:03.000Z"),
            ("2050-12-31T01:02:03", "2050-12-31T01:02:03.000Z"),
            ("2050-12-31T01:02:03.123456", "2050-12-31T01:02:03.123Z"),
            ("2050-12-31", "2050-12-31T00:00:00.000Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "tomorrow", "2050-13-01T00:00:00Z", "2050-12-31T25:00:00Z", "1700000000"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
