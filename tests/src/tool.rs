//! Programs, run to their end with a deadline and with what they said.

use std::{
    ffi::OsStr,
    fmt,
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long any single program may take. Far above what any takes; its only use is that nothing hangs for ever.
const DEADLINE: Duration = Duration::from_secs(180);

/// What a program said and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Exit code, or minus the signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }

    /// Itself, when the program ended well.
    ///
    /// # Panics
    /// It did not; the message holds everything it said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "this failed:\n{self}");
        self
    }

    /// Itself, when the program failed.
    ///
    /// # Panics
    /// It ended well.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert!(!self.status.success(), "this should have failed:\n{self}");
        self
    }

    /// Everything it said, for looking for a text in it.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.text(), self.stderr)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.text();
        let (shown, more) = match shown.char_indices().nth(8000) {
            Some((end, _)) => (&shown[..end], "…"),
            None => (shown.as_str(), ""),
        };
        write!(f, "$ {}\n{}\nstdout: {shown}{more}\nstderr: {}", self.line, self.status, self.stderr)
    }
}

/// The command line as a person would type it.
#[must_use]
pub fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a program with arguments; see [`finish`].
#[track_caller]
pub fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
    finish(Command::new(program).args(args), &[])
}

/// Starts a command.
///
/// # Panics
/// It cannot be started: a missing program is a failure of the set-up and not a reason to skip a test.
#[track_caller]
pub fn start(command: &mut Command) -> Child {
    // Programs of the administrator are not on every user's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start {}: {error}; run scripts/setup", line_of(command)),
    }
}

/// Runs a command to its end, with `input` on its standard input.
///
/// # Panics
/// It cannot be started, or takes longer than three minutes and is killed.
#[track_caller]
pub fn finish(command: &mut Command, input: &[u8]) -> Finished {
    let line = line_of(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command);
    let mut stdin = child.stdin.take().expect("it is piped");
    let stdout = drain(child.stdout.take().expect("it is piped"));
    let stderr = drain(child.stderr.take().expect("it is piped"));
    let input = input.to_vec();
    // A program that does not read its input ends before taking all of it: no failure.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let (out, err) = (stdout.recv_timeout(DEADLINE), stderr.recv_timeout(DEADLINE));
    let timed_out = out.is_err() || err.is_err();
    if timed_out {
        child.kill().expect("it is a child that has not been waited for");
    }
    let status = child.wait().expect("it is a child");
    let stdout = out.unwrap_or_default();
    let stderr = String::from_utf8_lossy(&err.unwrap_or_default()).into_owned();
    let finished = Finished { line, status, stdout, stderr };
    assert!(!timed_out, "took longer than {DEADLINE:?}:\n{finished}");
    feeder.join().expect("it does not panic");
    finished
}

/// Reads all of `source` in the background.
fn drain(mut source: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        drop(source.read_to_end(&mut bytes));
        drop(sender.send(bytes));
    });
    receiver
}
