//! Dates, times of day, instants and durations, as Cassandra reads them from text.
//!
//! In: text. Out: days, nanoseconds or milliseconds, or nothing where the text says something else. Proleptic Gregorian
//! calendar, years beyond four digits included. Pure.

const MS_PER_DAY: i64 = 86_400_000;

/// What a text says about an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timestamp {
    /// Milliseconds since 1970-01-01T00:00:00Z, rounded down.
    At(i64),
    /// A date or a time without a zone.
    NoZone,
    /// Something else.
    Malformed,
}

/// A CQL duration: its three parts have one sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duration {
    pub(crate) months: i32,
    pub(crate) days: i32,
    pub(crate) nanoseconds: i64,
}

/// What is still to be read.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if first.eq_ignore_ascii_case(&byte) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn digits(&mut self, least: usize, most: usize) -> Option<i64> {
        let count = self.0.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(count)?;
        if count < least {
            return None;
        }
        self.0 = rest;
        digits.iter().try_fold(0_i64, |sum, digit| sum.checked_mul(10)?.checked_add(i64::from(digit - b'0')))
    }

    /// After the point: 1 to 9 digits, as nanoseconds.
    fn fraction_ns(&mut self) -> Option<i64> {
        let before = self.0.len();
        let digits = self.digits(1, 9)?;
        Some(digits * 10_i64.pow(9 - (before - self.0.len()) as u32))
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// `[+-]yyyy[y…]-mm-dd`, as days since 1970-01-01.
    fn date(&mut self) -> Option<i64> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        let year = self.digits(4, 7)?;
        let year = if negative { -year } else { year };
        let month = self.eat(b'-').then(|| self.digits(2, 2)).flatten()?;
        let day = self.eat(b'-').then(|| self.digits(2, 2)).flatten()?;
        ((1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day)).then(|| days_from(year, month, day))
    }

    /// `hh:mm[:ss[.f…]]`, as nanoseconds since midnight.
    fn time(&mut self, seconds_needed: bool) -> Option<i64> {
        let hour = self.digits(2, 2)?;
        let minute = self.eat(b':').then(|| self.digits(2, 2)).flatten()?;
        let (mut second, mut fraction_ns) = (0, 0);
        if self.eat(b':') {
            second = self.digits(2, 2)?;
            if self.eat(b'.') {
                fraction_ns = self.fraction_ns()?;
            }
        } else if seconds_needed {
            return None;
        }
        (hour < 24 && minute < 60 && second < 60)
            .then_some(((hour * 60 + minute) * 60 + second) * 1_000_000_000 + fraction_ns)
    }

    /// `Z`, `UTC`, `GMT`, `+hh`, `+hhmm`, `+hh:mm`, as minutes east of Greenwich.
    fn zone(&mut self) -> Option<i64> {
        if matches!(self.0, b"Z" | b"z" | b"UTC" | b"GMT") {
            self.0 = &[];
            return Some(0);
        }
        let sign = match (self.eat(b'+'), self.eat(b'-')) {
            (true, false) => 1,
            (false, true) => -1,
            _ => return None,
        };
        let hours = self.digits(2, 2)?;
        self.eat(b':');
        let minutes = if self.is_done() { 0 } else { self.digits(2, 2)? };
        (hours <= 18 && minutes < 60).then_some(sign * (hours * 60 + minutes))
    }
}

/// `yyyy-mm-dd`, as days since 1970-01-01.
pub(crate) fn date(text: &str) -> Option<i64> {
    let mut scan = Scan(text.as_bytes());
    scan.date().filter(|_| scan.is_done())
}

/// `hh:mm:ss[.f…]`, as nanoseconds since midnight.
pub(crate) fn time(text: &str) -> Option<i64> {
    let mut scan = Scan(text.as_bytes());
    scan.time(true).filter(|_| scan.is_done())
}

/// Milliseconds as digits, or a date, perhaps a time, and a zone.
pub(crate) fn timestamp(text: &str) -> Timestamp {
    if let Ok(milliseconds) = text.parse() {
        return Timestamp::At(milliseconds);
    }
    let mut scan = Scan(text.as_bytes());
    let Some(days) = scan.date() else { return Timestamp::Malformed };
    let mut time_ns = 0;
    if scan.eat(b'T') || scan.0.get(1).is_some_and(u8::is_ascii_digit) && scan.eat(b' ') {
        match scan.time(false) {
            Some(ns) => time_ns = ns,
            None => return Timestamp::Malformed,
        }
    }
    if scan.is_done() {
        return Timestamp::NoZone;
    }
    scan.eat(b' ');
    match scan.zone() {
        Some(minutes) if scan.is_done() => {
            Timestamp::At(days * MS_PER_DAY + time_ns.div_euclid(1_000_000) - minutes * 60_000)
        }
        _ => Timestamp::Malformed,
    }
}

/// `1y2mo3w4d5h6m7s8ms9us10ns`, `P1Y2M3DT4H5M6S`, `P3W` or `P0001-02-03T04:05:06`, each with a sign before it.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut scan = Scan(text.as_bytes());
    let negative = scan.eat(b'-');
    let mut sum = Parts::default();
    if scan.eat(b'P') {
        let alternative = scan.0.get(4) == Some(&b'-');
        if alternative { sum.alternative(&mut scan)? } else { sum.iso(&mut scan)? }
    } else {
        sum.units(&mut scan)?;
    }
    if !scan.is_done() {
        return None;
    }
    let sign = if negative { -1 } else { 1 };
    Some(Duration {
        months: i32::try_from(sum.months * sign).ok()?,
        days: i32::try_from(sum.days * sign).ok()?,
        nanoseconds: i64::try_from(sum.nanoseconds * i128::from(sign)).ok()?,
    })
}

/// What a duration adds up to, before its limits.
#[derive(Default)]
struct Parts {
    months: i64,
    days: i64,
    nanoseconds: i128,
}

const SECOND_NS: i128 = 1_000_000_000;

impl Parts {
    fn units(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        // Longer names first where one begins another; each unit once, in this order.
        const UNITS: [&str; 11] = ["y", "mo", "w", "d", "h", "m", "s", "ms", "us", "µs", "ns"];
        let mut next = 0;
        loop {
            let count = scan.digits(1, 19)?;
            let unit = (next..UNITS.len())
                .filter(|unit| {
                    let name = UNITS[*unit].as_bytes();
                    scan.0.get(..name.len()).is_some_and(|text| text.eq_ignore_ascii_case(name))
                })
                .max_by_key(|unit| UNITS[*unit].len())?;
            scan.0 = &scan.0[UNITS[unit].len()..];
            self.add(UNITS[unit], count)?;
            next = unit + 1;
            if scan.is_done() {
                return Some(());
            }
        }
    }

    fn iso(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        let mut any = false;
        let mut next = 0;
        let dates = [(b'Y', "y"), (b'M', "mo"), (b'W', "w"), (b'D', "d")];
        let times = [(b'H', "h"), (b'M', "m"), (b'S', "s")];
        while scan.0.first().is_some_and(u8::is_ascii_digit) {
            let count = scan.digits(1, 19)?;
            let unit = (next..dates.len()).find(|unit| scan.eat(dates[*unit].0))?;
            self.add(dates[unit].1, count)?;
            (next, any) = (unit + 1, true);
        }
        if scan.eat(b'T') {
            next = 0;
            any = false;
            while scan.0.first().is_some_and(u8::is_ascii_digit) {
                let count = scan.digits(1, 19)?;
                let unit = (next..times.len()).find(|unit| scan.eat(times[*unit].0))?;
                self.add(times[unit].1, count)?;
                (next, any) = (unit + 1, true);
            }
        }
        any.then_some(())
    }

    fn alternative(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        let parts = [("y", 4, b'-'), ("mo", 2, b'-'), ("d", 2, b'T'), ("h", 2, b':'), ("m", 2, b':'), ("s", 2, 0)];
        for (unit, digits, after) in parts {
            let count = scan.digits(digits, digits)?;
            self.add(unit, count)?;
            if after != 0 && !scan.eat(after) {
                return None;
            }
        }
        Some(())
    }

    fn add(&mut self, unit: &str, count: i64) -> Option<()> {
        let months = |per| count.checked_mul(per);
        let ns = |per: i128| i128::from(count).checked_mul(per);
        match unit {
            "y" => self.months = self.months.checked_add(months(12)?)?,
            "mo" => self.months = self.months.checked_add(count)?,
            "w" => self.days = self.days.checked_add(months(7)?)?,
            "d" => self.days = self.days.checked_add(count)?,
            "h" => self.nanoseconds += ns(3600 * SECOND_NS)?,
            "m" => self.nanoseconds += ns(60 * SECOND_NS)?,
            "s" => self.nanoseconds += ns(SECOND_NS)?,
            "ms" => self.nanoseconds += ns(1_000_000)?,
            "us" | "µs" => self.nanoseconds += ns(1_000)?,
            _ => self.nanoseconds += i128::from(count),
        }
        Some(())
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_from(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}
