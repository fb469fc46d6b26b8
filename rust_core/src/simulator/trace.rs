//! Traces of clients: who is online from when to when, how fast, and for which classes of jobs.
//!
//! A row is one session of one device, 32 bytes in memory (a run asks for all of a row at once, so
//! that rows are kept together and not columns), sorted by start. A trace is read and checked once,
//! and then shared by all runs, also by parallel ones.
//!
//! Not here: making traces up (`evaluation/simulator/generate.py`), and what a session does in a
//! run (see [`super::driver`] and [`crate::reference`]).

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::SimulationError;

/// The columns that a file must have; others are ignored.
pub const COLUMNS: [&str; 5] = ["start", "end", "computation", "communication", "requirements"];
/// A class of requirement is one digit.
pub const CLASSES: usize = 10;
/// The mean computation that relative speeds are measured by, in ms a unit.
pub const COMPUTATION_MEAN: f64 = 78.0;
/// The mean bandwidth that relative bandwidths are measured by, in kbit/s.
pub const COMMUNICATION_MEAN: f64 = 13_736.0;

const DAY_S: f64 = 86_400.0;
const ROWS_MAX: usize = u32::MAX as usize - 1;
const BUFFER_BYTES: usize = 1 << 20;
/// A longer line is no row of ours; without a limit one line could fill the memory.
const LINE_BYTES_MAX: u64 = 1 << 16;

type Result<T> = std::result::Result<T, SimulationError>;

/// One session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Session {
    /// When it begins, in seconds from the start of the trace.
    pub start_s: f64,
    /// When it ends.
    pub end_s: f64,
    /// Milliseconds for a unit of computation; larger is slower.
    pub computation: f32,
    /// The bandwidth in kbit/s.
    pub communication: f32,
    /// Bit k: the client meets class k.
    pub classes: u16,
}

impl Session {
    /// How long a task takes on this device: `workload` units of computation, and `communication`
    /// down and up again, each relative to the mean device.
    pub fn task_s(&self, workload: f64, communication: f64) -> f64 {
        workload * self.slowness() + 2.0 * communication / self.bandwidth()
    }

    /// How slow the device is, relative to the mean device.
    pub fn slowness(&self) -> f64 {
        f64::from(self.computation) / COMPUTATION_MEAN
    }

    /// Its bandwidth, relative to the mean device.
    pub fn bandwidth(&self) -> f64 {
        f64::from(self.communication) / COMMUNICATION_MEAN
    }

    /// The speed score that the device checks in with; larger is faster.
    pub fn option(&self) -> f64 {
        COMPUTATION_MEAN / f64::from(self.computation)
    }
}

/// The clients that meet exactly these classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signature {
    /// Bit k: they meet class k.
    pub classes: u16,
    /// How many sessions.
    pub check_ins: u64,
    /// How long these last together.
    pub online_s: f64,
}

/// Sessions sorted by start, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    sessions: Vec<Session>,
    period_s: f64,
}

impl Trace {
    /// Reads a CSV file, gzipped if its name ends in `.gz`, with at least the [`COLUMNS`].
    pub fn load_csv(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let unreadable = |error: io::Error| SimulationError::Trace(format!("{name}: {error}"));
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(unreadable)?);
        if is_gzipped(path) {
            let text = BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file));
            Self::read_csv(&name, text)
        } else {
            Self::read_csv(&name, file)
        }
    }

    /// Reads CSV text; `name` stands for the file in errors.
    pub fn read_csv(name: &str, mut text: impl BufRead) -> Result<Self> {
        let mut line = Vec::new();
        let mut number = 0;
        let mut next = |line: &mut Vec<u8>, number: &mut usize| {
            line.clear();
            *number += 1;
            let read = text.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line);
            let read = read.map_err(|error| at(name, *number, &error.to_string()))?;
            if read as u64 == LINE_BYTES_MAX {
                return Err(at(name, *number, "longer than 65536 bytes"));
            }
            while line.last().is_some_and(|byte| *byte == b'\n' || *byte == b'\r') {
                line.pop();
            }
            Ok(read > 0)
        };
        if !next(&mut line, &mut number)? {
            return Err(SimulationError::Trace(format!("{name}: the file is empty")));
        }
        let places = places(&line).map_err(|what| at(name, number, &what))?;
        let mut trace = Self::empty();
        while next(&mut line, &mut number)? {
            if line.is_empty() {
                continue;
            }
            let session = parse_row(&line, &places).map_err(|what| at(name, number, &what))?;
            trace.push(session).map_err(|what| at(name, number, &what))?;
        }
        trace.checked(name)
    }

    /// A trace of rows that come from elsewhere, counted from 1; `name` stands for them in errors.
    pub fn from_sessions(name: &str, sessions: impl Iterator<Item = Session>) -> Result<Self> {
        let mut trace = Self::empty();
        for session in sessions {
            let row = trace.len() + 1;
            let wrong = |what| SimulationError::Trace(format!("{name}: row {row}: {what}"));
            trace.push(session).map_err(wrong)?;
        }
        trace.checked(name)
    }

    /// Writes the trace as CSV, gzipped if the name ends in `.gz`.
    pub fn save_csv(&self, path: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
            if is_gzipped(path) {
                let mut text = GzEncoder::new(file, Compression::fast());
                self.write_csv(&mut text)?;
                text.finish()?.flush()
            } else {
                let mut text = file;
                self.write_csv(&mut text)?;
                text.flush()
            }
        };
        write().map_err(|error| SimulationError::Trace(format!("{}: {error}", path.display())))
    }

    fn write_csv(&self, text: &mut impl Write) -> io::Result<()> {
        writeln!(text, "{}", COLUMNS.join(","))?;
        for session in &self.sessions {
            let Session { start_s, end_s, computation, communication, classes } = session;
            write!(text, "{start_s},{end_s},{computation},{communication},")?;
            (0..CLASSES).filter(|class| classes >> class & 1 == 1).try_for_each(|class| {
                write!(text, "{class}") // One digit each: there are ten classes.
            })?;
            writeln!(text)?;
        }
        Ok(())
    }

    fn empty() -> Self {
        Self { sessions: Vec::new(), period_s: 0.0 }
    }

    fn push(&mut self, session: Session) -> std::result::Result<(), String> {
        let Session { start_s, end_s, computation, communication, .. } = session;
        for (what, value) in [("start", start_s), ("end", end_s)] {
            if !value.is_finite() || value < 0.0 {
                return Err(format!("{what} is {value}, expected a number of seconds from 0 on"));
            }
        }
        for (what, value) in [("computation", computation), ("communication", communication)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(format!("{what} is {value}, expected a number above 0"));
            }
        }
        if end_s < start_s {
            return Err(format!("end {end_s} is before start {start_s}"));
        }
        if let Some(before) =
            self.sessions.last().map(|above| above.start_s).filter(|above| *above > start_s)
        {
            return Err(format!(
                "start {start_s} is before {before}, the start of the row above: sort the rows by start"
            ));
        }
        if self.len() >= ROWS_MAX {
            return Err(format!("more than {ROWS_MAX} rows"));
        }
        self.sessions.push(session);
        Ok(())
    }

    fn checked(mut self, name: &str) -> Result<Self> {
        if self.is_empty() {
            return Err(SimulationError::Trace(format!("{name}: no rows")));
        }
        // Growing by doubling leaves up to half of the room unused, which stays for hours.
        self.sessions.shrink_to_fit();
        let last = self.sessions.last().map_or(0.0, |session| session.start_s);
        self.period_s = ((last / DAY_S).floor() + 1.0) * DAY_S;
        Ok(self)
    }

    /// How many sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Never true of a trace that was read.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The session of a row, from 0.
    pub fn session(&self, row: usize) -> Session {
        self.sessions[row]
    }

    /// When the session of a row begins.
    pub fn start_s(&self, row: usize) -> f64 {
        self.sessions[row].start_s
    }

    /// The classes that any client meets.
    pub fn all_classes(&self) -> u16 {
        self.sessions.iter().fold(0, |all, session| all | session.classes)
    }

    /// For each signature, who has it: ascending by signature.
    pub fn signatures(&self) -> Vec<Signature> {
        let mut found: Vec<Signature> = (0..1 << CLASSES)
            .map(|classes| Signature { classes, check_ins: 0, online_s: 0.0 })
            .collect();
        for session in &self.sessions {
            let signature = &mut found[usize::from(session.classes)];
            signature.check_ins += 1;
            signature.online_s += session.end_s - session.start_s;
        }
        found.retain(|signature| signature.check_ins > 0);
        found
    }

    /// After how long the trace begins again when it is replayed: the whole days that hold all
    /// starts, so that every replay keeps the hours of the day.
    pub fn period_s(&self) -> f64 {
        self.period_s
    }

    /// The same days in another order: day k becomes what day `order[k]` was. A session is of the
    /// day on which it starts. The period stays, also when the last day has no sessions now.
    pub fn with_days(&self, order: &[usize]) -> Result<Self> {
        let days = self.period_s / DAY_S;
        let mut all = order.to_vec();
        all.sort_unstable();
        if (all.len() as f64 - days).abs() > 0.5 || !all.into_iter().eq(0..order.len()) {
            let what = format!("the order of days must have each of the {days} days once");
            return Err(SimulationError::Trace(what));
        }
        let begin_s = |day: usize| day as f64 * DAY_S;
        let row = |day| self.sessions.partition_point(|session| session.start_s < begin_s(day));
        let mut sessions = Vec::with_capacity(self.len());
        for (day, old) in order.iter().enumerate() {
            let by_s = begin_s(day) - begin_s(*old);
            let moved = self.sessions[row(*old)..row(*old + 1)].iter().map(|session| Session {
                start_s: session.start_s + by_s,
                end_s: session.end_s + by_s,
                ..*session
            });
            sessions.extend(moved);
        }
        // Rounding may have brought the last of a day beyond the first of the next.
        sessions.sort_by(|one, other| one.start_s.total_cmp(&other.start_s));
        Ok(Self { sessions, period_s: self.period_s })
    }
}

fn is_gzipped(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

/// Lines are counted as an editor does: from 1, with the header and with empty ones.
fn at(name: &str, line: usize, what: &str) -> SimulationError {
    SimulationError::Trace(format!("{name}:{line}: {what}"))
}

/// For each of the [`COLUMNS`] its place in the header.
fn places(header: &[u8]) -> std::result::Result<[usize; 5], String> {
    let header = String::from_utf8_lossy(header);
    let header = header.trim_start_matches('\u{feff}');
    let found: Vec<&str> = header.split(',').map(|field| field.trim().trim_matches('"')).collect();
    let mut places = [0; 5];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = found.iter().position(|field| *field == column).ok_or_else(|| {
            let shown: String = header.chars().take(100).collect();
            let all = COLUMNS.join(", ");
            format!("no column {column:?} in the header {shown:?}, expected {all}")
        })?;
    }
    Ok(places)
}

fn parse_row(line: &[u8], places: &[usize; 5]) -> std::result::Result<Session, String> {
    let mut fields: [&[u8]; 5] = [b""; 5];
    let mut found = 0;
    for (place, field) in line.split(|byte| *byte == b',').enumerate() {
        if let Some(column) = places.iter().position(|wanted| *wanted == place) {
            fields[column] = field.trim_ascii();
            found += 1;
        }
    }
    if found < COLUMNS.len() {
        return Err("fewer fields than the header".to_owned());
    }
    let number = |column: usize| {
        let text = std::str::from_utf8(fields[column]).ok();
        text.and_then(|text| text.parse::<f64>().ok()).ok_or_else(|| {
            let shown = String::from_utf8_lossy(&fields[column][..fields[column].len().min(40)]);
            format!("{} is {shown:?}, expected a number", COLUMNS[column])
        })
    };
    #[expect(clippy::cast_possible_truncation, reason = "speeds need no more than seven digits")]
    let speed = |column: usize| number(column).map(|value| value as f32);
    let (start_s, end_s) = (number(0)?, number(1)?);
    let (computation, communication) = (speed(2)?, speed(3)?);
    let classes = parse_classes(fields[4])?;
    Ok(Session { start_s, end_s, computation, communication, classes })
}

fn parse_classes(digits: &[u8]) -> std::result::Result<u16, String> {
    digits.iter().try_fold(0, |classes, digit| {
        if digit.is_ascii_digit() {
            return Ok(classes | 1 << (digit - b'0'));
        }
        let shown = String::from_utf8_lossy(&digits[..digits.len().min(40)]);
        Err(format!("requirements is {shown:?}, expected the digits of the classes that are met"))
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "numbers that are exact")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace> {
        Trace::read_csv("t.csv", text.as_bytes())
    }

    fn error(text: &str) -> String {
        read(text).expect_err("the text is wrong").to_string()
    }

    const HEADER: &str = "start,end,computation,communication,requirements\n";

    #[test]
    fn columns_may_come_in_any_order_among_others() {
        let text = ",ID,end,start,requirements,communication,computation\r\n0,7,9,1,13,2.5,78\r\n";
        let session = read(text).expect("a good trace").session(0);
        assert_eq!((session.start_s, session.end_s, session.classes), (1.0, 9.0, 0b1010));
        assert_eq!((session.computation, session.communication), (78.0, 2.5));
    }

    #[test]
    fn the_mean_device_takes_the_workload_and_twice_the_communication() {
        let text = format!("{HEADER}0,9,78,13736,\n");
        let session = read(&text).expect("a good trace").session(0);
        assert_eq!((session.task_s(30.0, 10.0), session.option()), (50.0, 1.0));
    }

    /// Each fault is named with file and line, in one line.
    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let rows = |rows: &str| error(&format!("{HEADER}{rows}"));
        assert_eq!(rows("1,2,1,1,\n5,4,1,1,\n"), "t.csv:3: end 4 is before start 5");
        assert!(rows("5,6,1,1,\n4,6,1,1,\n").starts_with("t.csv:3: start 4 is before 5"));
        assert!(rows("NaN,6,1,1,\n").starts_with("t.csv:2: start is NaN"));
        assert!(rows("1,6,nan,1,\n").starts_with("t.csv:2: computation is NaN"));
        assert!(rows("1,6,1,0,\n").starts_with("t.csv:2: communication is 0"));
        assert!(rows("1,6,1,x,\n").starts_with("t.csv:2: communication is \"x\""));
        assert!(rows("1,6,1,1,a\n").starts_with("t.csv:2: requirements is \"a\""));
        assert!(rows("1,6,1,1\n").starts_with("t.csv:2: fewer fields"));
        assert_eq!(rows(""), "t.csv: no rows");
        assert_eq!(error(""), "t.csv: the file is empty");
        assert!(error("start,computation\n1,2\n").starts_with("t.csv:1: no column \"end\""));
        assert!(rows("1,6,1,1,\n\n\n0,6,1,1,\n").starts_with("t.csv:5: start 0"), "empty lines");
        let sessions = read(&format!("{HEADER}5,6,1,1,\n")).expect("good").sessions;
        let twice = [sessions[0], Session { start_s: 1.0, ..sessions[0] }];
        let wrong = Trace::from_sessions("columns", twice.into_iter()).expect_err("unsorted");
        assert!(wrong.to_string().starts_with("columns: row 2: start 1"), "no file, no lines");
    }

    #[test]
    fn each_signature_has_its_check_ins_and_its_time_online() {
        let text = format!("{HEADER}0,9,1,1,12\n1,1.5,1,1,\n2,12,1,1,21\n3,4,1,1,1\n");
        let signature = |classes, check_ins, online_s| Signature { classes, check_ins, online_s };
        assert_eq!(
            read(&text).expect("a good trace").signatures(),
            [signature(0, 1, 0.5), signature(0b10, 1, 1.0), signature(0b110, 2, 19.0)]
        );
    }

    #[test]
    fn a_trace_begins_again_after_whole_days() {
        let period =
            |start: &str| read(&format!("{HEADER}{start},999999,1,1,\n")).map(|t| t.period_s());
        assert_eq!(period("0").expect("good"), 86_400.0);
        assert_eq!(period("86400").expect("good"), 172_800.0);
        assert_eq!(period("431999").expect("good"), 432_000.0);
    }
}
