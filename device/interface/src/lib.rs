//! The data sheet of the DirectMusic card: everything that the device and its drivers agree on.
//!
//! | section | modules |
//! |---|---|
//! | [The doorbell page and the rings](#the-doorbell-page-and-the-rings): a picture | [`doorbell`], [`ring`] |
//! | [A driver in 60 lines](#a-driver-in-60-lines): it runs with the tests | |
//! | [Programming the card](#programming-the-card): six steps | [`pci`], [`regs`], [`protocol`] |
//! | [Time](#time): clocks, grants, samples | [`time`] |
//! | [Messages](#messages): what an event holds | [`event`], [`sysex`] |
//! | [Capture](#capture): MIDI inputs | [`midi`] |
//! | [Wave sink](#wave-sink): audio for the guest | [`wave`], [`sample_clock`] |
//! | [What a card may do](#what-a-card-may-do): and a driver must not rely on | |
//! | [Properties and downloads](#properties-and-downloads): the mailbox | [`command`], [`property`], [`download`] |
//! | [What the card refuses](#what-the-card-refuses): codes | [`ring::Reject`], [`regs::Fault`], [`rule`] |
//!
//! Nothing feeds this crate; the card (`dmus-card`) and the guest driver (`dmus-driver`) both import it. It holds
//! layouts, numbers, arithmetic, the order of the steps on the doorbell page, the reader of raw [`midi`] bytes, and the
//! [`sample_clock`] of a wave sink. [`owners`] is what the card tells a plugin of QEMU, and nothing for drivers. All
//! multi-byte values on the card are little endian.
//!
//! # The doorbell page and the rings
//!
//! BAR2 is plain memory that both sides see. Each word has one side that stores it:
//!
//! ```text
//! offset          stored by the driver               stored by the card
//! 0x000           GRANT
//! 0x040                                              WAKE_ARMED
//! 0x080                                              MASTER_TIME, LATENCY_TIME, SAMPLE_POSITION
//! 0x0C0                                              COMMANDS, COMMAND_STATUS, COMMAND_SIZE,
//!                                                    COMMAND_DETAIL, UNLOADS
//! 0x100 + 0x80 n  SUBMISSION_TAIL, COMPLETION_EVENT
//! 0x140 + 0x80 n                                     COMPLETION_HEAD, STATE, TRANSITIONS, REFUSAL
//! ```
//!
//! The memory of stream n is the guest's. Here slots 0, 3 and 1 were submitted, and slot 3 has been completed:
//!
//! ```text
//!                                                               stored by
//! pool             | slot 0 | slot 1 | slot 2 | slot 3 | ...    the driver: an event a slot
//!                    card's   card's
//!
//! submission ring  | 0 | 3 | 1 |   | ...                        the driver: slot numbers, then the tail
//!                               ^ SUBMISSION_TAIL = 3
//!
//! completion ring  | slot 3, presented, time |    | ...         the card: what became of slots, then the head
//!                                             ^ COMPLETION_HEAD = 1
//! ```
//!
//! With the tail a slot goes to the card, with the head it comes home:
//!
//! ```text
//!                                SUBMISSION_TAIL, GRANT
//! free slots --> pool and rings ------------------------> card: copies, judges, holds, presents
//!     ^                                                     |
//!     +------------------ completion ring <-----------------+
//!                         COMPLETION_HEAD, MSI-X
//! ```
//!
//! # A driver in 60 lines
//!
//! It plays a note by the [six steps](#programming-the-card), and looks at the page for what it waits for: with
//! interrupts it would sleep there. The card is one in the same process. In a guest, `Platform` is what the machine
//! gives: accesses to BAR0, BAR2 as memory, memory for DMA and a clock.
//!
//! ```
//! use dmus_driver::Platform;
//! use dmus_interface::event::{COMPLETE, Data, Event, PointerWidth};
//! use dmus_interface::protocol::{Page, driver};
//! use dmus_interface::regs::{self, Register, control, stream, stream::State, stream::Type};
//! use dmus_interface::{ring::Completion, ring::Status, time::RefTime};
//! use std::{error::Error, sync::atomic::Ordering::Relaxed, time::Duration};
//! use zerocopy::FromBytes;
//!
//! fn write(card: &impl Platform, register: Register, value: u64) {
//!     card.write32(register.offset, value as u32);
//!     if register.width == 8 {
//!         card.write32(register.offset + 4, (value >> 32) as u32);
//!     }
//! }
//! fn wait<T>(card: &impl Platform, answer: impl Fn() -> Option<T>) -> Result<T, &'static str> {
//!     let limit = card.now() + Duration::from_secs(5);
//!     let looks = std::iter::repeat_with(answer).take_while(|_| card.now() < limit);
//!     looks.flatten().next().ok_or("the card does not answer")
//! }
//! fn transition(card: &impl Platform, number: u32, register: Register, value: u32) -> Result<(), Box<dyn Error>> {
//!     write(card, stream::at(0, register), value.into());
//!     let refusal = wait(card, || driver::answer(card.doorbell(), 0, number))?;
//!     if refusal == 0 { Ok(()) } else { Err(format!("{} = {value} is refused: F{refusal}", register.name).into()) }
//! }
//! fn main() -> Result<(), Box<dyn Error>> {
//!     let card = dmus_tests::direct::Direct::new()?; // 1. Find it: on a bus, by vendor and device id.
//!     card.keep_engine()?; // A card of its own thread.
//! #   let checker = card.check();
//!     assert_eq!(card.read32(regs::MAGIC.offset), regs::MAGIC_VALUE);
//!     write(&card, regs::CONTROL, control::RESET.into()); // 2. Start it.
//!     write(&card, regs::CONTROL, control::ENABLE.into());
//!     let dma = card.dma_alloc(0x1000, 0x1000)?; // 3. Create stream 0: the pool, then both rings, in one page.
//!     let pool = [(stream::POOL_BASE, dma.iova), (stream::SLOT_COUNT, 16), (stream::SLOT_STRIDE, 64)];
//!     let submissions = [(stream::SUBMISSION_BASE, dma.iova + 0x400), (stream::SUBMISSION_SIZE, 16)];
//!     let completions = [(stream::COMPLETION_BASE, dma.iova + 0x800), (stream::COMPLETION_SIZE, 16)];
//!     for (register, value) in pool.into_iter().chain(submissions).chain(completions) {
//!         write(&card, stream::at(0, register), value);
//!     }
//!     transition(&card, 1, stream::TYPE, Type::Render.value())?;
//!     transition(&card, 2, stream::STATE, State::Run as u32)?; // 4. Run it.
//!     for (slot, (status, time)) in [(0x90, 2_500_000), (0x80, 7_500_000)].into_iter().enumerate() {
//!         let data = Data::Inline([status, 60, 100, 0, 0, 0, 0, 0]); // 5. Submit a note and its end.
//!         let (struct_size, event_bytes, channel_group, flags) = (40, 3, 0, COMPLETE);
//!         let event = Event { struct_size, event_bytes, channel_group, flags, time, byte_position: 0, next: 0, data };
//!         dma.memory.write(64 * slot, &event.encode(PointerWidth::Eight).0);
//!         dma.memory.store_u32(0x400 + 4 * slot, slot as u32, Relaxed);
//!     }
//!     driver::publish_tail(card.doorbell(), 0, 2);
//!     driver::publish_grant(card.doorbell(), RefTime::from_secs(1));
//!     if driver::armed_sleep(card.doorbell()) != 0 {
//!         write(&card, regs::WAKE, 1); // It sleeps, and may have missed the two.
//!     }
//!     wait(&card, || (driver::completion_head(card.doorbell(), 0) == 2).then_some(()))?; // 6. Reclaim.
//!     for entry in 0..2 {
//!         let words = [0, 8].map(|word| dma.memory.load_u64(0x800 + 16 * entry + word, Relaxed).to_le_bytes());
//!         let done = Completion::read_from_bytes(words.as_flattened()).map_err(|_| "not 16 bytes")?;
//!         assert_eq!(Status::decode(done.status.get()), Some(Status::Presented));
//!         println!("slot {} is free again; its event was presented at {}", done.slot, RefTime(done.time.get()));
//!     }
//! #   assert!(!checker.has_errors(), "{}", checker.json());
//!     transition(&card, 3, stream::STATE, State::Stop as u32)
//! }
//! ```
//!
//! # Programming the card
//!
//! 1. **Find it.** A PCI Express endpoint with vendor and device id of [`pci`]. Enable memory space and bus-master,
//!    and leave that on while any stream is not in STOP. BAR0 holds the [`regs`] (trapped), BAR2 the [`doorbell`] page
//!    (plain shared memory), BAR4 the MSI-X table. Vector *n* belongs to stream *n*; vector [`pci::CONTROL_VECTOR`]
//!    reports faults.
//! 2. **Start it.** Check [`regs::MAGIC`] and [`regs::VERSION`], write [`regs::control::RESET`] to [`regs::CONTROL`],
//!    then [`regs::control::ENABLE`]. A reset zeroes BAR2, every index and the master clock, and forgets all streams;
//!    it writes nothing to guest memory, so everything that the card held is the driver's again once the write has
//!    returned. Choose the [`event::PointerWidth`] through [`regs::POINTER_WIDTH`] (8 after reset).
//! 3. **Create a stream** (DirectMusic's `NewStream`). Fill the stream's [`regs::stream`] block: the event pool (slots
//!    of [`regs::stream::SLOT_STRIDE`] bytes, each beginning with one [`event`]), the buffer area for long data, the
//!    submission ring (u32 slot numbers) and the completion ring ([`ring::Completion`] entries). Then write the type to
//!    [`regs::stream::TYPE`]: the card checks the whole configuration and answers on the doorbell page
//!    ([`doorbell::TRANSITIONS`], [`doorbell::REFUSAL`]) and with the stream's vector.
//! 4. **Run it.** Write the state ([`regs::stream::State`]) to [`regs::stream::STATE`]; the answer comes the same way,
//!    and the register reads back the new state once it is in force. One transition may be under way at a time in a
//!    stream.
//! 5. **Submit.** Fill a slot, store its number in the submission ring, and once a batch store the new free-running
//!    tail to [`doorbell::SUBMISSION_TAIL`] with release. From then until its completion the slot, its buffer and every
//!    slot that its chain or package reaches belong to the card. In virtual time, then raise the [`doorbell::GRANT`].
//!    Then a full fence, and if [`doorbell::WAKE_ARMED`] is neither 0 nor the number that was rung for last, write
//!    [`regs::WAKE`] (a sleeping card re-reads the page). That is the only trapped access, and a playing card needs
//!    none.
//! 6. **Reclaim.** Read [`doorbell::COMPLETION_HEAD`] with acquire; every entry up to it names the head slot of a
//!    submission that is the driver's again. To be interrupted when entry number *e* is published, store *e* to
//!    [`doorbell::COMPLETION_EVENT`], fence, and look at the head once more before sleeping. The interrupt may also
//!    come for another reason, or for none: look at the head after it, too.
//!
//! # Time
//!
//! One master clock in units of 100 ns ([`time::RefTime`]). With the *realtime* clock it is the host's monotonic clock
//! since reset. With the *virtual* clock ([`regs::feature::VIRTUAL_CLOCK`]) it moves only as far as the driver grants:
//! a grant G says "everything before G is submitted". The card then renders every sample n < ceil(G x rate / 10^7) and
//! applies every event with a time t <= G (those at G too), before any sample at G; so any number of events at one
//! instant come on time, pool after pool. Reaching the grant always publishes the completions and raises the vector of
//! every stream that is not in STOP (the control vector when there is none), whatever the event index says. The
//! realtime card raises the vectors when the clock reaches the grant.
//!
//! *Stream time* is master time less what passed outside RUN, and zero at the first RUN after STOP. Event times are
//! stream times; a grant is master time; [`regs::stream::TIME_BASE`] is the difference while a stream runs. An event is
//! *presented* when it is applied to the synthesizer, at sample ceil((t + base) x rate / 10^7); its slot belongs to the
//! card until then. An event whose time has [`event::DONT_HOLD`] set is applied at the first sample not yet rendered.
//! An event whose sample has passed is applied at once and completed as late.
//!
//! With the virtual clock a write to TYPE, STATE or COMMAND takes effect when the grant that was there before it is
//! reached, so that its time is the same in each run; a driver awaits the answer before it grants more. It does not
//! wait for a grant that is more than a minute ahead, nor where time stands for want of a posted slot or of a reader of
//! the audio.
//!
//! # Messages
//!
//! A render event holds one complete MIDI message (no running status), or with [`event::INCOMPLETE`] a fragment of a
//! SysEx message that goes on in the stream's next submission. Fragments complete when copied; the message plays at the
//! time of its last one, and may be 64 KiB long ([`event::MAX_MESSAGE`]). A real-time message (0xF8 to 0xFF) may stand
//! between two fragments, as a submission of its own: it plays at its own time, and the SysEx message goes on after it.
//! Any other message, chain or package there, and STOP, leaves the SysEx message unfinished: its bytes are dropped, and
//! [`regs::Fault::UnfinishedMessage`] says so (with STOP, before its answer).
//!
//! A chain ([`event::Event::next`]) or package ([`event::PACKAGE`]) is one submission and one completion; it is applied
//! atomically, and rejected as a whole. Members of a chain have one time stamp. The time of a package is that of its
//! head, the event with the flag; times inside a package are not looked at. Counters count messages.
//!
//! # Capture
//!
//! A capture stream ([`regs::stream::Type`]) brings what the card's MIDI inputs receive. Its ring takes empty slots: an
//! event with cbStruct, whose other fields are 0 but for uData, the IOVA of a free buffer of the buffer area. Slot and
//! buffer belong to the card until their completion; pool and buffers must be writable, and there must be at least one
//! buffer. The card fills the posted slots in their order:
//!
//! - cbEvent: bytes of data. Up to the pointer size they are in the event, and uData does not lead to the buffer any
//!   more; else they are in the posted buffer, and uData is as it was. So a driver keeps in mind itself which buffer a
//!   slot was posted with.
//! - usChannelGroup: the number of the input, from 0 in the order in which the card was given them.
//! - usFlags: [`event::COMPLETE`] or [`event::INCOMPLETE`].
//! - Time: stream time of the last byte; it never decreases in a stream.
//! - Byte position: bytes of data captured before it since STOP. What an overrun lost is counted: a position that is
//!   not the end of the event before it means that something is missing there.
//!
//! bReserved and cbStruct stay as they are, pNextEvt is 0. The completion is [`ring::Status::Presented`] with the
//! event's time.
//!
//! *Cooked*, an event is a complete message with its status byte. SysEx longer than a buffer fills several, INCOMPLETE
//! but for the last; real-time messages inside SysEx are events of their own, perhaps between these. Any other message
//! after an INCOMPLETE event means that the SysEx is left unfinished. *Uncooked*, events are INCOMPLETE and their bytes
//! are as they came; [`midi::Parser`] reads them.
//!
//! Inputs know nothing of streams: every capture stream gets what comes while it is in RUN or PAUSE (in PAUSE stream
//! time stands), and in STOP and ACQUIRE it is thrown away. A timed file begins to play at the first RUN of a capture
//! stream after a reset, in master time. With the virtual clock, time stands while something captured has no posted
//! slot: nothing is ever lost. In realtime a bounded number of events waits; then the oldest are dropped, SysEx as a
//! whole, and [`regs::Fault::CaptureOverrun`] says so once until the stream goes through STOP. STOP discards the posted
//! slots, with completions, and what waits for some; a slot posted in STOP is discarded, too: post in ACQUIRE, then
//! RUN.
//!
//! # Wave sink
//!
//! A wave sink stream ([`regs::stream::Type::WaveSink`], `ISynthSinkDMus`) brings what the card renders, the sum of all
//! its render streams, as PCM. Before it is created, [`regs::stream::WAVE_RATE`] and [`regs::stream::WAVE_FORMAT`] say
//! how ([`wave::WaveFormat`]); at the card's own rate, in S16 and stereo, it is what the card's output gets, bit for
//! bit. Its slots are posted with buffers like those of a capture stream, and come back in their order, each with a
//! *period*, a whole buffer of frames:
//!
//! - cbEvent: the bytes of the period. usFlags and usChannelGroup: 0.
//! - Time: stream time at which its first frame plays.
//! - Byte position: bytes before it since STOP (the position of `Render`). In realtime, a position that is not the end
//!   of the period before it means that periods were lost for want of posted slots, which
//!   [`regs::Fault::CaptureOverrun`] says, too.
//!
//! Only RUN brings frames. PAUSE and ACQUIRE end the period that has begun, which is then shorter (no more than the
//! pointer size is in the event, as in capture); RUN goes on with the next frame. STOP discards posted slots and what
//! waits for some, and the next RUN begins at position 0. Other rates than the card's are made by a filter that looks
//! up to 2 ms ahead: the last frames before PAUSE come after it. With the virtual clock, time stands at the end of each
//! period that has no posted slot.
//!
//! Which frame plays at which time is the driver's to follow, since the crystal of a sink is not that of the master
//! clock: periods tell the time of a frame, and [`sample_clock::SampleClock`] makes of that `SampleToRefTime` and
//! `RefTimeToSample`. [`doorbell::LATENCY_TIME`] is the latency clock.
//!
//! # What a card may do
//!
//! A driver may rely on what this data sheet promises, and on nothing that a card merely happens to do. In particular:
//!
//! - *Fetching.* A tail that is stored is not fetched yet, and what it publishes need not be fetched at one time: ring
//!   entry, slot and buffer are the card's until the submission's completion. What a grant covers is fetched before
//!   anything is rendered.
//! - *Order.* A render stream's completions come in any order, of one instant as of several, but for fragments and
//!   refusals, which none overtakes. What has completed is said by the slot number alone. Capture and wave sink streams
//!   complete in the order in which slots were posted.
//! - *Publication.* Completions may be kept for a later publication, so that a batch comes home in parts, or several
//!   at once. All that was due is published before the clocks say so, before a grant counts as reached, and before a
//!   transition is answered; in realtime, within moments.
//! - *Interrupts.* A vector is a hint. It may come later than what it tells of, once for several things, and with
//!   nothing to tell: look at the head, the answer or the clock, and wait again if what was awaited is not there.
//! - *Returned slots.* In a render stream whose pool the card may write to, a slot that comes home may hold anything,
//!   but bReserved and cbStruct are as they were: fill all of it for the next submission, and keep in memory of your
//!   own what is to be known of it. A slot that is filled by capture holds what "Capture" says.
//! - *Sleep.* A card may go to sleep whenever it has nothing to do, and wake for no reason: look at
//!   [`doorbell::WAKE_ARMED`] after each store of a tail or grant.
//!
//! `dmus-card serve --liberties` takes such liberties as a seed says, so that a driver can be tried with them.
//!
//! # Properties and downloads
//!
//! What DirectMusic has as properties, and DLS downloads, are commands of a mailbox ([`command`], [`property`],
//! [`download`]): at any time, one after the other. A driver writes the [`regs::COMMAND_REQUEST`] registers and then
//! the opcode to [`regs::COMMAND`], and is answered on the doorbell page ([`doorbell::COMMANDS`]) and with the control
//! vector. The card reads the request once, judges its copy, and writes the result before it answers. The memory of
//! both is the card's until then; a reset voids a command that is under way, without an answer.
//!
//! # What the card refuses
//!
//! Each thing a driver can do wrong has a code: [`ring::Reject`] for a submission (in the completion's flags),
//! [`regs::Fault`] for the rest (in [`regs::FAULT`], with the control vector; [`regs::FAULT_DETAIL`] says what it was
//! about). Nothing that a guest does stops the card.
//!
//! Guest memory should be a memfd that allows sealing (`MFD_ALLOW_SEALING`), not in huge pages: the card seals it
//! against shrinking when it is mapped. What else a client shares is not mapped, since its pages could go away under
//! the card, and is asked for by messages.
//!
//! A stream whose tail ran over, or one of whose rings went away, is *halted*: it fetches nothing more. What it had
//! taken completes in time or is discarded by STOP, as far as the completion ring can still be written. RUN, PAUSE and
//! ACQUIRE are refused ([`regs::Fault::Halted`]); STOP and then CLOSED are taken, and the stream can be created anew.
#![no_std]
#![forbid(unsafe_code)]

// The example of the manual runs with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod command;
pub mod doorbell;
pub mod download;
pub mod event;
pub mod midi;
pub mod owners;
pub mod pci;
pub mod property;
pub mod protocol;
pub mod regs;
pub mod ring;
pub mod rule;
pub mod sample_clock;
pub mod sysex;
pub mod time;
pub mod wave;
