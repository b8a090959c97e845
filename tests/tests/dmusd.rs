//! dmusd in the Linux guest, and through it the card under programs that nobody here wrote: aplaymidi, arecordmidi,
//! aseqdump, amidi.
//!
//! Two boots serve all of these tests, one with each clock; their scripts leave what they saw in the shared folder.

use anyhow::{Context, ensure};
use dmus_song::Song;
use dmus_tests::programs::{self, run, said, script};
use dmus_tests::songs;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Rounds of the driver in one boot.
const ROUNDS: &str = "100";
/// A song's times and those of its sounds, on an idle machine: 2 ms.
const TOLERANCE: usize = 96;
/// Hits of [`hits`], and samples from one to the next.
const HITS: usize = 20;
const BETWEEN: usize = 4800 + 200;

/// Short, loud hits, 20 ticks of 5.2 ms apart.
fn hits() -> Vec<u8> {
    let hit = |i| [(if i == 0 { 0 } else { 10 }, vec![0x99, 76, 127]), (10, vec![0x89, 76, 0])];
    songs::file((0..HITS).flat_map(hit))
}

/// 3,002 bytes.
fn sysex() -> Vec<u8> {
    [0xF0, 0x7D].into_iter().chain((0..2999).map(|i| (i % 128) as u8)).chain([0xF7]).collect()
}

/// 6,000 notes on and off in a second, 32 at a time.
fn flood() -> Vec<u8> {
    let note = |i: u32| {
        let (channel, key) = ((i / 2 % 8) as u8, 36 + (i / 2 % 40) as u8);
        (
            u32::from(i.is_multiple_of(32)),
            if i.is_multiple_of(2) { vec![0x90 | channel, key, 80] } else { vec![0x80 | channel, key, 0] },
        )
    };
    songs::file((0..6000).map(note))
}

/// 50,000 notes on and off, as a raw device takes them.
fn raw_flood() -> Vec<u8> {
    let note = |i: u32| [0x90 | (i / 2 % 16) as u8, 36 + (i / 2 % 40) as u8, if i.is_multiple_of(2) { 80 } else { 0 }];
    (0..50_000).flat_map(note).collect()
}

/// What a boot left behind, by name.
type Seen = BTreeMap<String, Vec<u8>>;

fn boot(text: &str, files: &[(&str, Vec<u8>)], options: &[&str]) -> anyhow::Result<Seen> {
    let dir = tempfile::tempdir()?;
    let share = dir.path();
    for (name, bytes) in files {
        std::fs::write(share.join(name), bytes)?;
    }
    std::fs::write(share.join("script.sh"), format!("cd /share\n{COMMON}{text}"))?;
    let sink = format!("wav:{}", share.join("out.wav").display());
    let mut shell = script("shell");
    shell.current_dir(share).arg("--share").arg(share).args(["--sink", &sink]).args(options).arg("script.sh");
    let done = run(&mut shell)?;
    ensure!(done.status.success(), "{}", said(&done));
    let names =
        std::fs::read_dir(share)?.map(|entry| anyhow::Ok(entry?.file_name().into_string().ok().context("a name")?));
    names.map(|name| Ok((name.as_ref().ok().cloned().unwrap_or_default(), std::fs::read(share.join(name?))?))).collect()
}

/// Of both scripts. Nothing waits longer than ten seconds.
const COMMON: &str = r#"
    fail() { echo "dmus: error: $*"; exit 1; }
    until_in() {
        for _ in $(seq 100); do ! grep -q "$1" "$2" || return 0; sleep 0.1; done
        tail -n 20 "$2"; fail "$2 never had $1"
    }
    status() { "$@"; echo "status $?"; }
    # What a command says goes to a file, and to the host if it fails.
    must() { file=$1; shift; "$@" >"$file" || { cat "$file"; fail "$*"; }; }
"#;

fn text<'s>(seen: &'s Seen, name: &str) -> anyhow::Result<std::borrow::Cow<'s, str>> {
    Ok(String::from_utf8_lossy(seen.get(name).with_context(|| format!("the guest left no {name}"))?))
}

/// With the realtime clock, and the card's own messages as its MIDI input.
fn realtime() -> anyhow::Result<&'static Seen> {
    static SEEN: OnceLock<Result<Seen, String>> = OnceLock::new();
    let text = r#"
        bridge() {
            dmusd alsa >"$1" & bridge=$!
            until_in client= "$1"
            client=$(sed -n 's/.*client=\([0-9]*\).*/\1/p' "$1")
        }
        bridge alsa
        status dmusd info >busy
        status dmusd --device 00:1e.7 info >nowhere
        aplaymidi -l >ports
        dump=/tmp/dump
        aseqdump -p $client:4 >$dump & reader=$!
        arecordmidi -p $client:4 recorded.mid & record=$!
        for _ in $(seq 100); do
            aconnect -l >connected
            ! grep -q 'Connecting To: .*,' connected || break
            sleep 0.1
        done
        aplaymidi -d 1 -p $client:0 hits.mid || fail aplaymidi
        kill -INT $record; wait $record

        aplaymidi -d 0 -p $client:1 sysex.mid || fail aplaymidi of SysEx
        modprobe snd-virmidi
        virtual=$(aconnect -l | sed -n "s/^client \([0-9]*\): 'Virtual Raw MIDI 0-0.*/\1/p")
        aconnect "$virtual":0 $client:2 || fail aconnect
        amidi -p hw:0,0 -S 'F0 7E 7F 09 01 F7 91 3C 64 81 3C 40' || fail amidi
        amidi -p hw:0,0 -s sysex.syx || fail amidi with a file
        # SysEx that never ends, and a message after it.
        printf '\360\001\002\003\302\007' >/dev/snd/midiC0D0 || fail a write to the raw device
        sleep 0.5
        cp $dump sysexdump

        aplaymidi -d 0 -p $client:0 flood.mid || fail aplaymidi of a flood
        aplaymidi -d 0 -p $client:3 hits.mid & other=$!
        aplaymidi -d 0 -p $client:3 hits.mid || fail one of two
        wait $other || fail the other of two
        aplaymidi -p $client:3 held.mid & held=$!
        until_in 'note 11,' $dump
        kill -9 $held
        until_in 'Note off *3, note 12,' $dump
        cp $dump helddump

        # Again and again: the bridge looks once a second, and the kernel takes a tenth of it.
        for count in 1 2 3; do
            echo 1 >/sys/bus/pci/devices/$CARD/reset || fail a reset
            for _ in $(seq 100); do
                [ "$(grep -c 'was reset' alsa)" -lt $count ] || break
                sleep 0.05
            done
        done
        [ "$(grep -c 'was reset' alsa)" = 3 ] || { cat alsa; fail not every reset was noticed; }
        aplaymidi -d 0 -p $client:0 hits.mid || fail aplaymidi after a reset
        kill -INT $reader; wait $reader
        # As fast as this machine can.
        cp flood.raw /tmp
        cat /tmp/flood.raw >/dev/snd/midiC0D0 || fail a flood of the raw device
        sleep 0.5
        kill $bridge; wait $bridge; echo "status $?" >>alsa

        # The end of a program, whatever it does.
        bridge killed
        aplaymidi -p $client:0 held.mid &
        sleep 0.3
        kill -9 $bridge
        wait
        dmusd play held.mid >stopped & play=$!
        until_in 'progress 1' stopped
        kill $play; wait $play; echo "status $?" >>stopped
        dmusd play held.mid >/dev/null & play=$!
        sleep 0.5
        kill -9 $play
        must selftest dmusd selftest --rounds 3

        echo $CARD >/sys/bus/pci/drivers/vfio-pci/unbind
        status dmusd info >unbound
        sh -c "$(sed -n 's/.*As root: //p' unbound | tr -d '\n')" || fail the mend
        status dmusd info >mended
        dmesg -r >dmesg
    "#;
    let held = songs::file([
        (0, vec![0xB3, 64, 127]),
        (0, vec![0x90, 11, 100]),
        (0, vec![0x93, 12, 100]),
        (2000, vec![0x80, 11, 0]),
    ]);
    let files = [
        ("hits.mid", hits()),
        ("sysex.mid", songs::file([(0, sysex()), (10, vec![0xC1, 5])])),
        ("sysex.syx", sysex()),
        ("flood.mid", flood()),
        ("flood.raw", raw_flood()),
        ("held.mid", held),
    ];
    let look = || boot(text, &files, &["--midi-in", "loopback"]).map_err(|error| format!("{error:#}"));
    SEEN.get_or_init(look).as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// With the virtual clock, and a song as the card's MIDI input.
fn virtually() -> anyhow::Result<&'static Seen> {
    static SEEN: OnceLock<Result<Seen, String>> = OnceLock::new();
    let text = format!(
        "must info dmusd info
        must recorded dmusd record --seconds 6 recorded.mid
        must recorded4 dmusd record --seconds 6 --width 4 recorded4.mid
        status dmusd record recorded.none >endless
        must wave dmusd wave --song song.mid wave.wav
        must silence dmusd wave --seconds 7 --rate 44100 --mono --float silence.wav
        status dmusd alsa >refused
        echo no song >nosong.mid
        status dmusd play nosong.mid >nosong
        must selftest dmusd selftest --rounds {ROUNDS}
        # As a user without rights, then with the card's group, then with memory that may be pinned.
        mkdir -p /etc
        echo 'somebody::1000:1000::/tmp:/bin/sh' >/etc/passwd
        asks() {{ su somebody -c \"$1 dmusd info\"; echo \"status $?\"; }}
        asks '' >forbidden
        chown 1000 /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/$CARD/iommu_group))
        asks 'ulimit -l 64;' >locked
        asks 'ulimit -l 8192;' >allowed
        rmmod vfio_iommu_type1
        status dmusd info >driverless
        dmesg -r >dmesg"
    );
    let files = [("song.mid", songs::busy(300))];
    let options = ["--clock", "virtual", "--midi-in", "song.mid"];
    let look = || boot(&text, &files, &options).map_err(|error| format!("{error:#}"));
    SEEN.get_or_init(look).as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// The messages of a MIDI file in the share.
fn messages(seen: &Seen, name: &str) -> anyhow::Result<Vec<(i64, Vec<u8>)>> {
    let song = Song::parse(seen.get(name).with_context(|| format!("there is no {name}"))?)?;
    Ok(song.messages().map(|message| (message.time.0, message.bytes.to_vec())).collect())
}

/// A number of dmusd's last line that has it, like `played submitted=3`.
fn number(text: &str, name: &str) -> anyhow::Result<u64> {
    let field = text.split_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(field.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
}

/// Bytes of the SysEx that `aseqdump` prints, piece by piece.
fn dumped_sysex(dump: &str) -> Vec<u8> {
    let bytes = dump.lines().filter_map(|line| line.split_once("System exclusive")).map(|(_, bytes)| bytes);
    bytes.flat_map(str::split_whitespace).filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

#[test]
fn arecordmidi_records_what_aplaymidi_plays() -> anyhow::Result<()> {
    let seen = realtime()?;
    let bytes = |name| anyhow::Ok(messages(seen, name)?.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>());
    assert_eq!(bytes("recorded.mid")?, bytes("hits.mid")?);
    let ports = text(seen, "ports")?;
    assert_eq!(ports.matches("DirectMusic  ").count(), 4, "{ports}");
    Ok(())
}

/// The first loud samples of the hits, from the start of the file.
fn onsets(seen: &Seen) -> anyhow::Result<Vec<usize>> {
    let wav = seen.get("out.wav").context("there is no audio")?;
    let left = wav.get(44..).unwrap_or(&[]).as_chunks::<4>().0.iter().map(|[l, h, ..]| i16::from_le_bytes([*l, *h]));
    let (mut onsets, mut last) = (vec![], None);
    for (at, sample) in left.enumerate() {
        let quiet = last.is_none_or(|last| at - last > BETWEEN / 2);
        if sample.unsigned_abs() > 600 && quiet {
            onsets.push(at);
            last = Some(at);
        }
    }
    Ok(onsets)
}

#[test]
fn each_message_sounds_when_alsas_queue_has_it() -> anyhow::Result<()> {
    let seen = realtime()?;
    let onsets = onsets(seen)?;
    ensure!(onsets.len() >= HITS, "{onsets:?}");
    let early = |(hit, onset): (usize, &usize)| *onset as i64 - (hit * BETWEEN) as i64;
    let mut delays: Vec<_> = onsets.iter().take(HITS).enumerate().map(early).collect();
    delays.sort_unstable();
    // Single ones may be late: this machine is not idle while tests run.
    let median = delays[HITS / 2];
    let near = delays.iter().filter(|delay| delay.abs_diff(median) as usize <= TOLERANCE).count();
    assert!(near >= HITS * 3 / 4, "{delays:?}");
    Ok(())
}

#[test]
fn long_sysex_goes_through_in_both_directions_from_a_player_and_from_a_raw_device() -> anyhow::Result<()> {
    let dump = text(realtime()?, "sysexdump")?;
    let expected = [sysex(), vec![0xF0, 0x7E, 0x7F, 9, 1, 0xF7], sysex()].concat();
    assert!(dumped_sysex(&dump) == expected, "{dump}");
    assert!(dump.contains("Program change          1, program 5"), "{dump}");
    assert!(dump.contains("Note on                 1, note 60, velocity 100"), "{dump}");
    Ok(())
}

#[test]
fn nothing_is_lost_in_a_flood_nor_between_two_programs_and_what_a_killed_one_left_sounding_ends() -> anyhow::Result<()>
{
    let seen = realtime()?;
    let alsa = text(seen, "alsa")?;
    let hits = messages(seen, "hits.mid")?.len() as u64;
    // Sent: SysEx and program, by amidi SysEx, two notes and SysEx, a program, the flood, what was held and its end,
    // the raw flood.
    let expected = 4 * hits + 2 + 4 + 1 + 6000 + 3 + 3 + 50_000;
    assert_eq!(number(&alsa, "submitted")?, expected, "{alsa}");
    assert_eq!(number(&alsa, "presented")? + number(&alsa, "late")?, expected, "{alsa}");
    assert_eq!((number(&alsa, "overruns")?, number(&alsa, "rejected")?), (0, 0), "{alsa}");
    assert_eq!(number(&alsa, "slots")?, number(&alsa, "slots_free")?, "{alsa}");
    assert_eq!(number(&alsa, "buffers")?, number(&alsa, "buffers_free")?, "{alsa}");
    let dump = text(seen, "helddump")?;
    for end in ["Control change          3, controller 64, value 0", "Note off                0, note 11,"] {
        assert!(dump.contains(end), "{end} is missing");
    }
    Ok(())
}

#[test]
fn a_reset_under_the_bridge_is_noticed_and_mended() -> anyhow::Result<()> {
    let alsa = text(realtime()?, "alsa")?;
    assert!(alsa.contains("the card was reset by somebody else; 0 messages were lost"), "{alsa}");
    assert!(alsa.trim_end().ends_with("status 0"), "{alsa}");
    Ok(())
}

#[test]
fn a_signal_ends_a_song_and_killed_programs_leave_a_card_that_works() -> anyhow::Result<()> {
    let seen = realtime()?;
    let stopped = text(seen, "stopped")?;
    assert!(stopped.contains("dmus: error: interrupted") && stopped.contains("status 130"), "{stopped}");
    assert_eq!(number(&stopped, "slots")?, number(&stopped, "slots_free")?, "{stopped}");
    assert!(text(seen, "selftest")?.contains("dmus: selftest passed"));
    Ok(())
}

#[test]
fn what_the_machine_lacks_is_said_and_the_mend_that_is_said_mends_it() -> anyhow::Result<()> {
    let seen = realtime()?;
    for (name, complaint) in [
        ("busy", "is in use: another program"),
        ("nowhere", "there is no PCI device 0000:00:1e.7"),
        ("unbound", "is bound to no driver, not to vfio-pci"),
    ] {
        let said = text(seen, name)?;
        assert!(said.contains(complaint) && said.trim_end().ends_with("status 3"), "{said}");
    }
    let mended = text(seen, "mended")?;
    assert!(mended.contains("clock            realtime") && mended.trim_end().ends_with("status 0"), "{mended}");
    let seen = virtually()?;
    for (name, complaint, status) in [
        ("refused", "start it with --clock realtime", 1),
        ("endless", "say --seconds", 1),
        ("nosong", "cannot play nosong.mid", 3),
        ("forbidden", "no permission to open /dev/vfio/", 3),
        ("locked", "raise the limit (ulimit -l", 3),
        ("allowed", "clock            virtual", 0),
        ("driverless", "modprobe vfio_iommu_type1", 3),
    ] {
        let said = text(seen, name)?;
        assert!(said.contains(complaint) && said.trim_end().ends_with(&format!("status {status}")), "{said}");
    }
    Ok(())
}

#[test]
fn what_the_cards_input_brings_is_recorded_with_either_pointer_width() -> anyhow::Result<()> {
    let seen = virtually()?;
    let song = messages(seen, "song.mid")?;
    for name in ["recorded.mid", "recorded4.mid"] {
        let recorded = messages(seen, name)?;
        assert!(recorded.len() == song.len(), "{} of {} in {name}", recorded.len(), song.len());
        let first = recorded.first().zip(song.first()).map_or(0, |(recorded, song)| recorded.0 - song.0);
        for (recorded, song) in recorded.iter().zip(&song) {
            // Half a tick each way, and a sample.
            assert!(recorded.1 == song.1 && (recorded.0 - first).abs_diff(song.0) <= 1000, "{recorded:?} {song:?}");
        }
    }
    assert_eq!(number(&text(seen, "recorded")?, "lost")?, 0);
    Ok(())
}

#[test]
fn the_wave_sink_brings_what_the_offline_renderer_makes() -> anyhow::Result<()> {
    let seen = virtually()?;
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(300))?;
    let done = run(programs::card()?.args(["render", "song.mid", "-o", "song.wav"]).current_dir(dir.path()))?;
    ensure!(done.status.success(), "{}", said(&done));
    assert!(seen.get("wave.wav") == Some(&std::fs::read(dir.path().join("song.wav"))?));
    for name in ["wave", "silence"] {
        let said = text(seen, name)?;
        assert_eq!((number(&said, "lost")?, number(&said, "slots_free")?), (0, 256), "{said}");
    }
    // A resampler holds back what it cannot know yet.
    let frames = number(&text(seen, "silence")?, "frames")?;
    assert!((7 * 44_100 - 64..=7 * 44_100).contains(&frames), "{frames}");
    let silence = hound::WavReader::new(seen.get("silence.wav").context("no silence")?.as_slice())?;
    assert_eq!(
        (silence.spec().sample_rate, silence.spec().channels, u64::from(silence.duration())),
        (44_100, 1, frames)
    );
    Ok(())
}

#[test]
fn info_tells_what_the_card_has_and_what_its_synthesizer_answers() -> anyhow::Result<()> {
    let info = text(virtually()?, "info")?;
    let rows: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.split_at_checked(17)).collect();
    for (name, value) in [
        ("clock", "virtual"),
        ("sample rate", "48000 Hz"),
        ("fault", "none"),
        ("capabilities", "DLS, DLS2, software, fixed memory, General MIDI, GS, reverb"),
        ("volume", "0.00 dB"),
        ("priority", "0x8000000e of the first channel"),
    ] {
        let found = rows.iter().find(|(row, _)| row.trim_end() == name).map(|(_, value)| *value);
        assert_eq!(found, Some(value), "{name} in\n{info}");
    }
    Ok(())
}

#[test]
fn a_hundred_rounds_leave_nothing_behind_and_a_stray_address_is_refused_by_name() -> anyhow::Result<()> {
    let selftest = text(virtually()?, "selftest")?;
    for line in [
        "ok: a stray DMA address is refused and named",
        "ok: opening and closing leaves nothing behind",
        &format!("progress {ROUNDS}"),
        // Its MIDI input is a song.
        "not tried: what the DDI states, with pointers of 4 bytes",
        "selftest passed",
    ] {
        assert!(selftest.contains(line), "{selftest}");
    }
    Ok(())
}

#[test]
fn the_kernel_saw_no_fault_of_the_cards() -> anyhow::Result<()> {
    for seen in [realtime()?, virtually()?] {
        for line in text(seen, "dmesg")?.lines() {
            for part in ["DMAR: [", " fault", "Fault", "nobody cared", "WARNING:", "BUG:", "Call Trace"] {
                assert!(!line.contains(part), "{line}");
            }
        }
    }
    Ok(())
}
