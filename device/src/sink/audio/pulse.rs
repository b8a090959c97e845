//! A sound server: PulseAudio, or PipeWire, which speaks the same.
//!
//! Fed by the audio sink; feeds a Unix socket that is opened before the sandbox. The server asks for the bytes that its
//! buffer has room for (REQUEST), and gets no more.

use super::{Device, FRAME, frames_of};
use crate::identity::{ClockMode, SAMPLE_RATE};
use crate::sink::CHANNELS;
use pulseaudio::protocol::{
    AuthParams, AuthReply, ChannelMap, Command, CreatePlaybackStreamReply, DESCRIPTOR_SIZE, LatencyParams, MAX_VERSION,
    MIN_VERSION, PlaybackLatency, PlaybackStreamParams, Prop, Props, PulseError, SampleFormat, SampleSpec,
    TagStructRead, TagStructReader, read_descriptor, stream, write_command_message, write_memblock,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    UCred, sendmsg,
};
use rustix::process::{getgid, getpid, getuid};
use std::env::var_os;
use std::ffi::OsString;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How long the server may take to answer at the start.
const START: Duration = Duration::from_secs(5);
/// What the server's buffer should hold in realtime: 80 ms. It may hold twice as much.
const TARGET: usize = frames_of(80);
/// What it holds in virtual time, where nobody waits for what is heard: 2 s, so that a guest may be slow for a while.
const PACED: usize = frames_of(2000);
/// Bytes that a message may have. A server's answers have some hundreds.
const LONGEST: usize = 1 << 16;
/// Bytes of a cookie, by which a server knows its user.
const COOKIE: usize = 256;

/// Why there is no connection.
pub(super) enum Refusal {
    /// Nobody listens at these places.
    Nobody(String),
    /// The server that there is, or that the environment names, cannot be used.
    Refused(String),
}

/// A stream of a server.
pub(super) struct Pulse {
    socket: UnixStream,
    version: u16,
    channel: u32,
    /// What the socket has not taken yet: a packet of audio and two commands at most.
    out: Vec<u8>,
    /// What has come of the next messages.
    input: Vec<u8>,
    /// Bytes that the server has asked for.
    wanted: usize,
    /// The number of the last command.
    number: u32,
    /// The command that asked how full the buffer is, and the frames that waited then.
    measuring: Option<(u32, usize)>,
    surplus: Option<i64>,
    dry: bool,
    /// The command to play to the end.
    draining: Option<u32>,
    drained: bool,
}

impl Pulse {
    /// Connects, and makes a stream that waits for its first audio.
    pub(super) fn open(clock: ClockMode) -> Result<Self, Refusal> {
        let places = places().map_err(Refusal::Refused)?;
        for place in &places {
            match connect(place) {
                Ok(socket) => {
                    let greeted = Self::greet(socket, clock);
                    return greeted
                        .map_err(|why| Refusal::Refused(format!("the sound server at {} {why}", place.display())));
                }
                Err(Errno::NOENT | Errno::CONNREFUSED) => {}
                Err(Errno::AGAIN) => {
                    let why = "takes no more connections; is it stopped?";
                    return Err(Refusal::Refused(format!("the sound server at {} {why}", place.display())));
                }
                Err(error) => {
                    return Err(Refusal::Refused(format!(
                        "the sound server at {} cannot be reached: {error}; run the card as the user whose server it \
                         is, or name another in PULSE_SERVER",
                        place.display()
                    )));
                }
            }
        }
        let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ");
        match variable("PULSE_SERVER") {
            Some(_) => Err(Refusal::Refused(format!(
                "nobody listens at {looked}, which PULSE_SERVER names; start that sound server, or unset it"
            ))),
            None => Err(Refusal::Nobody(looked)),
        }
    }

    /// Introduces itself on a connection, and makes the stream.
    fn greet(socket: UnixStream, clock: ClockMode) -> Result<Self, String> {
        let prepared = socket.set_read_timeout(Some(START)).and_then(|()| socket.set_write_timeout(Some(START)));
        prepared.map_err(|error| format!("cannot be spoken to: {error}"))?;
        let mut this = Self {
            socket,
            version: MIN_VERSION,
            channel: 0,
            out: vec![],
            input: vec![],
            wanted: 0,
            number: 0,
            measuring: None,
            surplus: None,
            dry: false,
            draining: None,
            drained: false,
        };
        let auth = AuthParams { version: MAX_VERSION, supports_shm: false, supports_memfd: false, cookie: cookie() };
        let number = this.command(&Command::Auth(auth))?;
        this.show_user().map_err(|error| format!("cannot be told who this is: {error}"))?;
        let greeted: AuthReply = this.answer_to(number)?;
        if greeted.version < MIN_VERSION {
            return Err(format!("is too old: it speaks version {} of the protocol", greeted.version));
        }
        this.version = greeted.version.min(MAX_VERSION);
        let mut props = Props::new();
        props.set(Prop::ApplicationName, c"dmus-card");
        let _: Ignored = this.ask(&Command::SetClientName(props))?;
        let stream: CreatePlaybackStreamReply = this.ask(&Command::CreatePlaybackStream(stream_params(clock)))?;
        this.channel = stream.channel;
        this.wanted = stream.requested_bytes as usize;
        this.socket.set_nonblocking(true).map_err(|error| format!("cannot be spoken to: {error}"))?;
        Ok(this)
    }

    /// Sends a command and waits for its answer: only before the socket is made not to block.
    fn ask<T: TagStructRead>(&mut self, command: &Command) -> Result<T, String> {
        let number = self.command(command)?;
        self.answer_to(number)
    }

    /// Begins to send, and says whose this process is. The kernel would say it by itself only to a server that has
    /// asked for it by now.
    fn show_user(&mut self) -> rustix::io::Result<()> {
        let (pid, uid, gid) = (getpid(), getuid(), getgid());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmCredentials(UCred { pid, uid, gid }));
        let sent = sendmsg(&self.socket, &[IoSlice::new(&self.out)], &mut control, SendFlags::NOSIGNAL)?;
        self.out.drain(..sent);
        Ok(())
    }

    fn answer_to<T: TagStructRead>(&mut self, number: u32) -> Result<T, String> {
        let deadline = Instant::now() + START;
        self.flush()?;
        while Instant::now() < deadline {
            let Some(message) = self.next()? else {
                break;
            };
            let mut rest = &message[..];
            match Command::read_tag_prefixed(&mut rest, self.version) {
                Ok((answered, Command::Reply)) if answered == number => {
                    let reply = TagStructReader::new(&mut rest, self.version).read();
                    return reply.map_err(|error| format!("cannot be understood: {error}"));
                }
                Ok((answered, Command::Error(error))) if answered == number => return Err(refusal(error)),
                _ => {}
            }
        }
        Err(format!("does not answer within {START:?}; is it stopped?"))
    }

    /// Puts a command among what is to be sent; gives its number.
    fn command(&mut self, command: &Command) -> Result<u32, String> {
        self.number = self.number.wrapping_add(1);
        let written = write_command_message(&mut self.out, self.number, command, self.version);
        written.map_err(|error| format!("cannot be told what to do: {error}"))?;
        Ok(self.number)
    }

    /// Sends what the socket takes.
    fn flush(&mut self) -> Result<(), String> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(gone(&error)),
            }
        }
        Ok(())
    }

    /// The next message without its descriptor, if it has come.
    fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some((header, rest)) = self.input.split_first_chunk::<DESCRIPTOR_SIZE>() {
                let header = read_descriptor(&mut &header[..]).map_err(|error| format!("is not one: {error}"))?;
                let length = header.length as usize;
                if length > LONGEST {
                    return Err(format!("is not one: it sends {length} bytes at once"));
                }
                if rest.len() >= length {
                    let message = rest[..length].to_vec();
                    self.input.drain(..DESCRIPTOR_SIZE + length);
                    return Ok(Some(message));
                }
            }
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err("has closed the connection".into()),
                Ok(count) => self.input.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(gone(&error)),
            }
        }
    }

    /// Hears all that the server has said.
    fn listen(&mut self) -> Result<(), String> {
        while let Some(message) = self.next()? {
            let mut rest = &message[..];
            match Command::read_tag_prefixed(&mut rest, self.version) {
                Ok((_, Command::Request(request))) if request.channel == self.channel => {
                    self.wanted = self.wanted.saturating_add(request.length as usize);
                }
                Ok((_, Command::Underflow(underflow))) if underflow.channel == self.channel => self.dry = true,
                Ok((_, Command::PlaybackStreamKilled(_))) => return Err("has ended the card's stream".into()),
                Ok((number, Command::Reply | Command::Error(_))) if self.draining == Some(number) => {
                    self.drained = true;
                }
                Ok((number, answer @ (Command::Reply | Command::Error(_)))) => {
                    if let Some((_, waited)) = self.measuring.take_if(|(asked, _)| *asked == number)
                        && matches!(answer, Command::Reply)
                        && let Ok(latency) = TagStructReader::new(&mut rest, self.version).read::<PlaybackLatency>()
                        && latency.playing
                    {
                        self.surplus = Some(surplus(&latency, waited));
                    }
                }
                // What else a server says changes nothing here.
                _ => {}
            }
        }
        Ok(())
    }
}

/// A server's errors say whose they are.
fn named<T>(result: Result<T, String>) -> Result<T, String> {
    result.map_err(|why| format!("the sound server {why}"))
}

impl Device for Pulse {
    fn play(&mut self, bytes: &[u8]) -> Result<usize, String> {
        named(self.listen())?;
        named(self.flush())?;
        let count = bytes.len().min(self.wanted).min(LONGEST) / FRAME * FRAME;
        if count == 0 || !self.out.is_empty() {
            return Ok(0);
        }
        let written = write_memblock(&mut self.out, self.channel, &bytes[..count], 0);
        named(written.map_err(|error| format!("cannot be sent audio: {error}")))?;
        self.wanted -= count;
        named(self.flush())?;
        Ok(count)
    }

    fn measure(&mut self, waiting: usize) -> Result<(), String> {
        if self.measuring.is_none() && self.out.is_empty() {
            // The time would come back as it is sent; this one is always representable.
            let command = Command::GetPlaybackLatency(LatencyParams { channel: self.channel, now: UNIX_EPOCH });
            self.measuring = Some((named(self.command(&command))?, waiting));
            named(self.flush())?;
        }
        Ok(())
    }

    fn surplus(&mut self) -> Option<i64> {
        self.surplus.take()
    }

    fn ran_dry(&mut self) -> bool {
        if self.dry {
            // The level was another.
            (self.measuring, self.surplus) = (None, None);
        }
        std::mem::take(&mut self.dry)
    }

    fn drain(&mut self) -> Result<bool, String> {
        if self.draining.is_none() {
            self.draining = Some(named(self.command(&Command::DrainPlaybackStream(self.channel)))?);
        }
        named(self.flush())?;
        named(self.listen())?;
        Ok(self.drained)
    }
}

/// A connection, if it is there at once: a server that is stopped would be waited for.
fn connect(place: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(place)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
}

/// An answer of which only the number matters.
struct Ignored;

impl TagStructRead for Ignored {
    fn read(_: &mut TagStructReader<'_>, _: u16) -> Result<Self, pulseaudio::protocol::ProtocolError> {
        Ok(Self)
    }
}

/// How much more is in the server's buffer, in the device's and still waiting here than there should be, in frames.
fn surplus(latency: &PlaybackLatency, waited: usize) -> i64 {
    let queued = latency.write_offset.saturating_sub(latency.read_offset) / FRAME as i64;
    let device = latency.sink_usec.min(10_000_000) * u64::from(SAMPLE_RATE) / 1_000_000;
    queued.saturating_add(device as i64 + waited as i64 - TARGET as i64)
}

fn stream_params(clock: ClockMode) -> PlaybackStreamParams {
    let bytes = |frames: usize| (frames * FRAME) as u32;
    let is_live = clock == ClockMode::Realtime;
    // It plays once half is there, so that a card which is held up a little does not have it run dry at once.
    let (target, least) = if is_live { (2 * TARGET, frames_of(10)) } else { (PACED, frames_of(20)) };
    let mut props = Props::new();
    props.set(Prop::MediaName, c"DirectMusic card");
    PlaybackStreamParams {
        sample_spec: SampleSpec { format: SampleFormat::S16Le, channels: CHANNELS as u8, sample_rate: SAMPLE_RATE },
        channel_map: ChannelMap::stereo(),
        buffer_attr: stream::BufferAttr {
            max_length: bytes(2 * target),
            target_length: bytes(target),
            pre_buffering: bytes(target / 2),
            minimum_request_length: bytes(least),
            ..Default::default()
        },
        props,
        // Live, the device takes what it needs each 10 ms, since audio comes just in time.
        flags: stream::StreamFlags { early_requests: is_live, adjust_latency: !is_live, ..Default::default() },
        ..Default::default()
    }
}

fn refusal(error: PulseError) -> String {
    match error {
        PulseError::AccessDenied | PulseError::AuthKey => {
            "does not let this user in; run the card as the user whose server it is, or name the server's cookie in \
             PULSE_COOKIE"
                .into()
        }
        PulseError::NoEntity => "has no device to play on; attach one, or make one (pactl load-module \
             module-null-sink)"
            .into(),
        error => format!("refuses: {error:?}"),
    }
}

fn gone(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PIPE | Errno::CONNRESET) => "has gone".into(),
        _ => format!("cannot be spoken to: {error}"),
    }
}

/// A variable of the environment. An empty one is as good as none.
fn variable(name: &str) -> Option<OsString> {
    var_os(name).filter(|value| !value.is_empty())
}

/// Where a server's socket may be: as its own library looks.
fn places() -> Result<Vec<PathBuf>, String> {
    places_of(variable, getuid().as_raw())
}

fn places_of(variable: impl Fn(&str) -> Option<OsString>, user: u32) -> Result<Vec<PathBuf>, String> {
    let Some(server) = variable("PULSE_SERVER") else {
        let folder = variable("PULSE_RUNTIME_PATH").map(PathBuf::from).unwrap_or_else(|| {
            let folder = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
            folder.unwrap_or_else(|| format!("/run/user/{user}").into()).join("pulse")
        });
        return Ok(vec![folder.join("native"), "/run/pulse/native".into()]);
    };
    let server = server.to_string_lossy().into_owned();
    // Several may be named, each for one machine, perhaps: "{machine}unix:/path".
    let sockets = server.split_whitespace().filter_map(|name| {
        let name = name.strip_prefix('{').and_then(|name| name.split_once('}')).map_or(name, |(_, name)| name);
        let path = name.strip_prefix("unix:").unwrap_or(name);
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    let sockets: Vec<_> = sockets.collect();
    match sockets.is_empty() {
        true => Err(format!(
            "PULSE_SERVER is {server}, which is no Unix socket (unix:/PATH), and others cannot be played on; unset it"
        )),
        false => Ok(sockets),
    }
}

/// What a server of this user has kept for those who may play. Without one, it goes by who connects.
fn cookie() -> Vec<u8> {
    let path = |name| variable(name).map(PathBuf::from);
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let files = [
        path("PULSE_COOKIE"),
        config.map(|folder| folder.join("pulse/cookie")),
        path("HOME").map(|home| home.join(".pulse-cookie")),
    ];
    let read = |file: PathBuf| {
        let mut cookie = vec![];
        std::fs::File::open(file).ok()?.take(COOKIE as u64).read_to_end(&mut cookie).ok()?;
        (cookie.len() == COOKIE).then_some(cookie)
    };
    files.into_iter().flatten().find_map(read).unwrap_or_else(|| vec![0; COOKIE])
}

#[cfg(test)]
mod tests;
