//! The client against a server that this file plays.

use super::*;
use pulseaudio::protocol::{SetClientNameReply, read_command_message, write_error, write_reply_message};
use std::io::BufReader;

const VERSION: u16 = 32;
const CHANNEL: u32 = 7;

/// A server that knows the card, and has asked for so many bytes.
fn greeted(wanted: u32) -> (Pulse, BufReader<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let server = std::thread::spawn(move || {
        let mut theirs = BufReader::new(theirs);
        let mut number = || read_command_message(&mut theirs, VERSION).expect("a command").0;
        let answered = number();
        assert_eq!(answered, 1);
        let mut out = vec![];
        let auth = AuthReply { version: VERSION, use_memfd: false, use_shm: false };
        write_reply_message(&mut out, answered, &auth, VERSION).expect("written");
        theirs.get_mut().write_all(&out).expect("sent");
        for reply in [0, 1] {
            let (number, command) = read_command_message(&mut theirs, VERSION).expect("a command");
            let written = match (reply, command) {
                (0, Command::SetClientName(_)) => {
                    write_reply_message(theirs.get_mut(), number, &SetClientNameReply { client_id: 1 }, VERSION)
                }
                (1, Command::CreatePlaybackStream(_)) => {
                    let stream =
                        CreatePlaybackStreamReply { channel: CHANNEL, requested_bytes: wanted, ..Default::default() };
                    write_reply_message(theirs.get_mut(), number, &stream, VERSION)
                }
                (_, other) => unreachable!("{other:?}"),
            };
            written.expect("sent");
        }
        theirs
    });
    let Ok(pulse) = Pulse::greet(ours, ClockMode::Realtime) else {
        unreachable!("a greeting that failed");
    };
    (pulse, server.join().expect("the server"))
}

fn tell(server: &mut BufReader<UnixStream>, command: &Command) {
    write_command_message(server.get_mut(), u32::MAX, command, VERSION).expect("sent");
}

#[test]
fn a_server_gets_the_bytes_that_it_asks_for_and_no_more() {
    let (mut pulse, mut server) = greeted(10);
    // Whole frames.
    assert_eq!(pulse.play(&[1; 100]), Ok(8));
    assert_eq!(pulse.play(&[2; 100]), Ok(0));
    tell(&mut server, &Command::Request(pulseaudio::protocol::Request { channel: CHANNEL, length: 6 }));
    tell(&mut server, &Command::Request(pulseaudio::protocol::Request { channel: CHANNEL + 1, length: 60 }));
    assert_eq!(pulse.play(&[3; 100]), Ok(8));
    for byte in [1, 3] {
        let header = read_descriptor(&mut server).expect("audio");
        assert_eq!((header.channel, header.length), (CHANNEL, 8));
        let mut audio = [0; 8];
        server.read_exact(&mut audio).expect("audio");
        assert_eq!(audio, [byte; 8]);
    }
}

#[test]
fn the_level_is_that_of_the_buffer_the_device_and_what_waits() {
    let (mut pulse, mut server) = greeted(0);
    assert_eq!((pulse.measure(100), pulse.surplus()), (Ok(()), None));
    let (number, command) = read_command_message(&mut server, VERSION).expect("a command");
    assert!(matches!(command, Command::GetPlaybackLatency(LatencyParams { channel: CHANNEL, .. })), "{command:?}");
    let mut latency = PlaybackLatency {
        sink_usec: 10_000,
        source_usec: 0,
        playing: true,
        local_time: UNIX_EPOCH,
        remote_time: UNIX_EPOCH,
        write_offset: 40_000,
        read_offset: 20_000,
        underrun_for: 0,
        playing_for: 0,
    };
    write_reply_message(server.get_mut(), number, &latency, VERSION).expect("sent");
    assert_eq!(pulse.play(&[]), Ok(0));
    assert_eq!((pulse.surplus(), pulse.surplus()), (Some(5000 + 480 + 100 - TARGET as i64), None));

    // While it waits for enough to begin with, the level means nothing.
    latency.playing = false;
    assert_eq!(pulse.measure(0), Ok(()));
    let (number, _) = read_command_message(&mut server, VERSION).expect("a command");
    write_reply_message(server.get_mut(), number, &latency, VERSION).expect("sent");
    assert_eq!((pulse.play(&[]), pulse.surplus()), (Ok(0), None));
}

#[test]
fn a_server_that_goes_away_or_is_none_is_told() {
    let (mut pulse, server) = greeted(0);
    drop(server);
    assert_eq!(pulse.play(&[0; 8]), Err("the sound server has closed the connection".into()));

    let (mut pulse, mut server) = greeted(0);
    server.get_mut().write_all(&[0x7F; DESCRIPTOR_SIZE]).expect("sent");
    let error = pulse.play(&[0; 8]).expect_err("no server sends so much");
    assert!(error.contains("is not one: it sends"), "{error}");
}

#[test]
fn a_server_that_lets_nobody_in_says_what_to_do() {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    write_error(&mut theirs, 1, &PulseError::AccessDenied).expect("sent");
    let why = Pulse::greet(ours, ClockMode::Virtual).err().expect("a refusal");
    assert!(why.contains("PULSE_COOKIE"), "{why}");
}

#[test]
fn a_server_is_looked_for_where_its_own_library_does() {
    let places = |variables: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let path = |place: PathBuf| place.display().to_string();
        places_of(variable, 1000).map(|places| places.into_iter().map(path).collect::<Vec<_>>().join(" "))
    };
    let found = |text: &str| Ok(text.to_owned());
    assert_eq!(places(&[]), found("/run/user/1000/pulse/native /run/pulse/native"));
    assert_eq!(places(&[("XDG_RUNTIME_DIR", "/x")]), found("/x/pulse/native /run/pulse/native"));
    let both = [("XDG_RUNTIME_DIR", "/x"), ("PULSE_RUNTIME_PATH", "/p")];
    assert_eq!(places(&both), found("/p/native /run/pulse/native"));
    for server in ["unix:/a/b", "/a/b", "{host}unix:/a/b", "tcp:host:4713 unix:/a/b"] {
        assert_eq!(places(&[("PULSE_SERVER", server)]), found("/a/b"), "{server}");
    }
    let refused = places(&[("PULSE_SERVER", "tcp:host:4713")]);
    assert!(refused.is_err_and(|why| why.contains("no Unix socket")));
}
