use super::*;
use crate::dma::heap::leak;
use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use dmus_interface::doorbell;
use dmus_interface::event::{Event, INCOMPLETE, PACKAGE};
use dmus_interface::protocol::Page;
use dmus_interface::ring::{COMPLETION_SIZE, Completion, SUBMISSION_SIZE, Slot};
use dmus_interface::time::RefTime;
use proptest::prelude::*;
use zerocopy::IntoBytes;

mod capture;
mod messages;

const SLOTS: u32 = 16;
const BUFFERS: u32 = 6;
const BUFFER_SIZE: usize = 32;
const POOL_IOVA: u64 = 0x10_000;
const BUFFER_IOVA: u64 = 0x20_000;

fn allocator(width: PointerWidth) -> Allocator<'static> {
    let page = DoorbellPage::new(Box::leak(Box::new(leak(4096, 0).memory))).expect("a page");
    let config = StreamConfig { slots: SLOTS, buffers: BUFFERS, buffer_size: BUFFER_SIZE as u32 };
    let iovas = [POOL_IOVA, BUFFER_IOVA, 0x28_000, 0x30_000];
    let mut memories = config.sizes().into_iter().zip(iovas).map(|((len, _), iova)| leak(len, iova));
    Allocator::new(page, 0, width, config, core::array::from_fn(|_| memories.next().expect("four")))
        .expect("an allocator")
}

/// What the stream does when it submits.
fn submit(message: Message<'_>) -> u32 {
    let slot = message.slot().0;
    message.submit();
    slot
}

/// A card, honest or not.
struct FakeCard {
    head: u32,
}

impl FakeCard {
    fn complete(&mut self, allocator: &Allocator<'_>, slot: u32, status: u16) {
        self.complete_with(allocator, slot, status, 0);
    }

    fn complete_with(&mut self, allocator: &Allocator<'_>, slot: u32, status: u16, flags: u16) {
        let entry = Completion { slot: slot.into(), status: status.into(), flags: flags.into(), time: 0.into() };
        let place = (self.head % SLOTS) as usize * COMPLETION_SIZE;
        allocator.queue.completions.memory().write(place, entry.as_bytes());
        self.publish(allocator, self.head.wrapping_add(1));
    }

    fn publish(&mut self, allocator: &Allocator<'_>, head: u32) {
        self.head = head;
        allocator.queue.page.store_u32(doorbell::at(0, doorbell::COMPLETION_HEAD), head, Ordering::Release);
    }
}

fn slot_bytes(allocator: &Allocator<'_>, slot: Slot) -> [u8; 40] {
    let mut bytes = [0; 40];
    allocator.pool.read(slot.0, 0, &mut bytes);
    bytes
}

/// DDI: GetMessage gives a freshly zeroed event, out of a pool that is filled at creation.
/// DDI: cbStruct is the size of the structure itself, 40 bytes with 8-byte pointers and 32 with 4-byte ones.
#[test]
fn a_fresh_message_is_zero_but_for_its_size() {
    for (width, size) in [(PointerWidth::Eight, 40), (PointerWidth::Four, 32)] {
        let allocator = allocator(width);
        let mut message = allocator.get_message().expect("a message");
        message.set_time(RefTime(-1));
        message.set_channel_group(7);
        message.set_data(&[1; 20]).expect("data");
        drop(message);
        let message = allocator.get_message().expect("the same message");
        let mut expected = [0; 40];
        expected[1] = size;
        assert_eq!(slot_bytes(&allocator, message.slot())[..size as usize], expected[..size as usize]);
    }
}

/// DDI: cbEvent is the unrounded number of event bytes; up to the pointer size they are in the event itself (abData),
/// else in a buffer (pbData), and of a package pPackageEvt is the chain.
#[test]
fn events_are_written_as_the_data_sheet_lays_them_out() {
    use dmus_interface::event::{Data, Event};
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let allocator = allocator(width);
        let decode = |slot| Event::decode(&slot_bytes(&allocator, slot), width).expect("an event");
        let mut short = allocator.get_message().expect("a message");
        short.set_time(RefTime(0x1234_5678_9ABC));
        short.set_byte_position(99);
        short.set_channel_group(5);
        short.set_data(&[0x90, 1, 2]).expect("data");
        let mut long = allocator.get_message().expect("a message");
        long.set_data(&[7; 9]).expect("data");
        long.set_incomplete();
        let (short_slot, long_slot) = (short.slot(), long.slot());
        short.chain(long).expect("chain");
        let mut package = allocator.get_message().expect("a message");
        package.package(short).expect("package");
        let package_slot = package.slot();
        // What a card sees once the handle is given up.
        package.submit();

        let event = decode(short_slot);
        assert_eq!((event.event_bytes, event.channel_group, event.flags), (3, 5, 0));
        assert_eq!((event.time, event.byte_position), (0x1234_5678_9ABC, 99));
        assert_eq!(event.next, POOL_IOVA + u64::from(long_slot.0) * 64);
        assert!(matches!(event.data, Data::Inline([0x90, 1, 2, ..])));
        let event = decode(long_slot);
        assert_eq!((event.event_bytes, event.flags, event.next), (9, INCOMPLETE, 0));
        assert_eq!(event.data, Data::Buffer(BUFFER_IOVA));
        let event = decode(package_slot);
        assert_eq!(event.flags, PACKAGE);
        assert_eq!(event.data, Data::Package(POOL_IOVA + u64::from(short_slot.0) * 64));
        allocator.reclaim_after_reset();
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6));
    }
}

/// DDI: PutMessage recycles the event, and with it the buffer that uData points to if cbEvent exceeds the pointer size
/// and it is no package; chains and packages are recycled as a whole.
#[test]
fn cb_event_against_the_pointer_size_decides_what_is_recycled() {
    for (width, inline) in [(PointerWidth::Eight, 8), (PointerWidth::Four, 4)] {
        let allocator = allocator(width);
        for len in 1..=BUFFER_SIZE {
            let mut message = allocator.get_message().expect("a message");
            message.set_data(&vec![1; len]).expect("data");
            let taken = BUFFERS as usize - allocator.free_buffers();
            assert_eq!(taken, usize::from(len > inline), "{len} bytes");
            assert_eq!(allocator.put_message(message), Ok(()));
            assert_eq!(allocator.free_buffers(), BUFFERS as usize);
        }
        // Few bytes in a buffer travel in the event, and the buffer is recycled alone.
        let buffer = allocator.get_buffer().expect("a buffer");
        buffer.write(0, &[5, 6]).expect("bytes");
        let mut message = allocator.get_message().expect("a message");
        message.attach(buffer, 2).expect("attach");
        assert_eq!(allocator.free_buffers(), BUFFERS as usize);
        assert_eq!(slot_bytes(&allocator, message.slot())[24 + inline..][..2], [5, 6]);
    }
}

/// DDI: GetBufferSize is constant for the allocator's life; an event takes no more than that, and no second buffer, and
/// what is refused is recycled.
#[test]
fn what_would_lose_or_mix_up_memory_is_an_error() {
    let (one, other) = (allocator(PointerWidth::Eight), allocator(PointerWidth::Eight));
    let mut message = one.get_message().expect("a message");
    message.set_data(&[1; 10]).expect("data");
    assert!(matches!(message.set_data(&[2]), Err(DriverError::Misuse(_))));
    let mut empty = one.get_message().expect("a message");
    assert!(matches!(empty.set_data(&[0; 33]), Err(DriverError::TooLong { len: 33, size: 32 })));
    let foreign = other.get_message().expect("a message");
    assert!(matches!(empty.chain(foreign), Err(DriverError::Misuse(_))));
    let foreign = other.get_buffer().expect("a buffer");
    assert!(matches!(empty.attach(foreign, 10), Err(DriverError::Misuse(_))));
    drop((message, empty));
    for allocator in [one, other] {
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6));
        assert_eq!(allocator.get_buffer_size(), BUFFER_SIZE);
    }
}

/// DDI: GetMessage and GetBuffer return a status, and do not block, when there is nothing left; PutBuffer takes back a
/// buffer that was never attached to an event.
#[test]
fn an_empty_pool_says_so() {
    let allocator = allocator(PointerWidth::Eight);
    let messages: Vec<_> = (0..SLOTS).map(|_| allocator.get_message().expect("a message")).collect();
    assert_eq!(allocator.get_message().err(), Some(DriverError::NoMessage));
    let buffers: Vec<_> = (0..BUFFERS).map(|_| allocator.get_buffer().expect("a buffer")).collect();
    assert_eq!(allocator.get_buffer().err(), Some(DriverError::NoBuffer));
    drop((messages, buffers));
    assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6));
}

/// DDI: PutMessage and PutBuffer return a status; what belongs to another allocator is not taken, and is not lost
/// either.
#[test]
fn what_is_put_into_another_allocator_goes_back_to_its_own_and_the_caller_is_told() {
    let (one, other) = (allocator(PointerWidth::Eight), allocator(PointerWidth::Eight));
    let mut message = one.get_message().expect("a message");
    message.set_data(&[1; 20]).expect("data");
    let buffer = one.get_buffer().expect("a buffer");
    assert_eq!((one.free_slots(), one.free_buffers()), (15, 4));
    assert!(matches!(other.put_message(message), Err(DriverError::Misuse(_))));
    assert_eq!((one.free_slots(), one.free_buffers()), (16, 5));
    assert!(matches!(other.put_buffer(buffer), Err(DriverError::Misuse(_))));
    for allocator in [one, other] {
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6));
    }
}

/// A card that lies, and what the driver says to it.
/// DDI: What the device says is not believed: a forged completion recycles nothing.
#[test]
fn lies_of_the_card_are_typed_errors_and_recycle_nothing() {
    let in_flight = |allocator: &Allocator<'_>| submit(allocator.get_message().expect("a message"));
    let held = allocator(PointerWidth::Eight);
    let mut card = FakeCard { head: 0 };
    let slot = in_flight(&held);
    for forged in [SLOTS, u32::MAX, slot + 1] {
        card.complete(&held, forged, 1);
        assert_eq!(held.reclaim(), Err(DriverError::ForgedCompletion(forged)));
        card.head -= 1;
        held.queue.head.set(0);
    }
    card.complete(&held, slot, 77);
    assert_eq!(held.reclaim(), Err(DriverError::UnknownStatus { slot, status: 77 }));
    card.head -= 1;
    card.complete(&held, slot, 1);
    assert_eq!(held.reclaim(), Ok(()));
    // Twice the same.
    card.complete(&held, slot, 1);
    assert_eq!(held.reclaim(), Err(DriverError::HeadJump { published: 1, in_flight: 0 }));
    assert_eq!((held.free_slots(), held.counts().presented), (16, 1));

    let twice = allocator(PointerWidth::Eight);
    let mut card = FakeCard { head: 0 };
    let (first, _second) = (in_flight(&twice), in_flight(&twice));
    card.complete(&twice, first, 1);
    card.complete(&twice, first, 1);
    assert_eq!(twice.reclaim(), Err(DriverError::ForgedCompletion(first)));
    assert_eq!(twice.free_slots(), 15);

    let jumped = allocator(PointerWidth::Eight);
    let mut card = FakeCard { head: 0 };
    in_flight(&jumped);
    card.publish(&jumped, 1 << 31);
    assert_eq!(jumped.get_message().map(|_| ()), Ok(()), "idle slots need no card");
    assert_eq!(jumped.reclaim(), Err(DriverError::HeadJump { published: 1 << 31, in_flight: 1 }));
    // A reset returns everything all the same.
    jumped.reclaim_after_reset();
    assert_eq!(jumped.free_slots(), 16);
}

#[test]
fn a_recycled_buffer_goes_out_again_with_its_slot() {
    let allocator = allocator(PointerWidth::Eight);
    let mut card = FakeCard { head: 0 };
    let others: Vec<_> = (0..SLOTS - BUFFERS).map(|_| allocator.get_message().expect("a message")).collect();
    let mut sent: Vec<(u32, [u8; 40])> = vec![];
    for round in 0..3 {
        for i in 0..BUFFERS {
            allocator.send(RefTime::ZERO, 0, &[1; 20]).expect("room");
            let slot = last_submitted(&allocator);
            let event = slot_bytes(&allocator, Slot(slot));
            match sent.get(i as usize) {
                Some(before) => assert_eq!(*before, (slot, event), "round {round}: another slot, or another buffer"),
                None => sent.push((slot, event)),
            }
        }
        assert_eq!(allocator.send(RefTime::ZERO, 0, &[1; 20]), Err(DriverError::NoMessage));
        sent.iter().for_each(|(slot, _)| card.complete(&allocator, *slot, 1));
    }
    // What is short has no use for the buffer, which is free for others then.
    allocator.send(RefTime::ZERO, 0, &[1; 8]).expect("room");
    assert_eq!(allocator.free_buffers(), 1);
    drop(others);
    allocator.reclaim().expect("an honest card");
    assert_eq!((allocator.free_slots(), allocator.free_buffers()), (SLOTS as usize - 1, BUFFERS as usize));
}

fn last_submitted(allocator: &Allocator<'_>) -> u32 {
    submitted(allocator, allocator.queue.tail().wrapping_sub(1))
}

/// The slot in entry number `index` of the submission ring.
fn submitted(allocator: &Allocator<'_>, index: u32) -> u32 {
    let mut slot = [0; 4];
    let place = (index % SLOTS) as usize * SUBMISSION_SIZE;
    assert!(allocator.queue.submissions.memory().read(place, &mut slot));
    u32::from_le_bytes(slot)
}

#[derive(Clone, Debug)]
enum Step {
    Get,
    SetData(usize, usize),
    Attach(usize, usize),
    Chain(usize, usize),
    Package(usize, usize),
    Recycle(usize),
    Submit(usize),
    Send(usize),
    Complete(usize, bool),
    GetBuffer,
    PutBuffer(usize),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0usize..16;
    prop_oneof![
        4 => Just(Step::Get),
        4 => (n.clone(), 0..=BUFFER_SIZE).prop_map(|(m, len)| Step::SetData(m, len)),
        1 => (n.clone(), 0..=BUFFER_SIZE).prop_map(|(m, len)| Step::Attach(m, len)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Chain(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Package(a, b)),
        2 => n.clone().prop_map(Step::Recycle),
        4 => n.clone().prop_map(Step::Submit),
        4 => (1..=BUFFER_SIZE + 1).prop_map(Step::Send),
        8 => (n.clone(), any::<bool>()).prop_map(|(f, reclaim)| Step::Complete(f, reclaim)),
        1 => Just(Step::GetBuffer),
        1 => n.prop_map(Step::PutBuffer),
        1 => Just(Step::Reset),
    ]
}

/// The reference model: what each message that the application or the card holds leads to.
#[derive(Debug, Default)]
struct Owned {
    slots: BTreeSet<u32>,
    buffers: usize,
    has_data: bool,
}

proptest! {
    /// Every slot and buffer has exactly one owner, whatever is done in whatever order, and whatever the card writes
    /// over the memory that it can write. DDI: Every event and buffer has one owner at any time; a forged or stale
    /// cbEvent or uData in memory that the device sees recycles nothing else.
    #[test]
    fn ownership_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..200), narrow: bool) {
        let width = if narrow { PointerWidth::Four } else { PointerWidth::Eight };
        let allocator = allocator(width);
        let mut card = FakeCard { head: 0 };
        let mut held: Vec<(Message<'_>, Owned)> = vec![];
        let mut flying: VecDeque<(u32, Owned)> = VecDeque::new();
        // Completed, and not yet reclaimed.
        let mut done: VecDeque<Owned> = VecDeque::new();
        let mut buffers: Vec<Buffer<'_>> = vec![];
        for step in steps {
            let mut consumed = allocator.queue.consumed();
            match step {
                Step::Get => match allocator.get_message() {
                    Ok(message) => {
                        let slots = BTreeSet::from([message.slot().0]);
                        held.push((message, Owned { slots, ..Owned::default() }));
                    }
                    Err(error) => prop_assert_eq!(error, DriverError::NoMessage),
                },
                Step::SetData(m, len) if !held.is_empty() => {
                    let m = m % held.len();
                    let (message, owned) = &mut held[m];
                    match message.set_data(&[1; BUFFER_SIZE][..len]) {
                        Ok(()) => {
                            prop_assert!(!owned.has_data);
                            owned.has_data = len > 0;
                            owned.buffers += usize::from(len > width.bytes());
                        }
                        Err(DriverError::Misuse(_)) => prop_assert!(owned.has_data),
                        Err(error) => prop_assert_eq!(error, DriverError::NoBuffer),
                    }
                }
                Step::Attach(m, len) if !held.is_empty() && !buffers.is_empty() => {
                    let m = m % held.len();
                    let (message, owned) = &mut held[m];
                    if let Some(buffer) = buffers.pop()
                        && message.attach(buffer, len).is_ok()
                    {
                        owned.has_data = len > 0;
                        owned.buffers += usize::from(len > width.bytes());
                    }
                }
                Step::Chain(a, b) | Step::Package(a, b) if held.len() > 1 => {
                    let package = matches!(step, Step::Package(..));
                    let (inner, inner_owned) = held.swap_remove(b % held.len());
                    let a = a % held.len();
                    let (outer, owned) = &mut held[a];
                    let done = if package { outer.package(inner) } else { outer.chain(inner) };
                    // A refused message has been recycled already.
                    if done.is_ok() {
                        owned.slots.extend(inner_owned.slots);
                        owned.buffers += inner_owned.buffers;
                        owned.has_data |= package;
                    } else {
                        prop_assert!(package && owned.has_data);
                    }
                }
                Step::Recycle(m) if !held.is_empty() => {
                    let (message, _) = held.swap_remove(m % held.len());
                    prop_assert_eq!(allocator.put_message(message), Ok(()));
                }
                Step::Submit(m) if !held.is_empty() => {
                    let (message, owned) = held.swap_remove(m % held.len());
                    flying.push_back((submit(message), owned));
                }
                Step::Send(len) => match allocator.send(RefTime(7), 3, &[1; BUFFER_SIZE + 1][..len]) {
                    Ok(()) => {
                        let slot = last_submitted(&allocator);
                        let event = Event::decode(&slot_bytes(&allocator, Slot(slot)), width).expect("an event");
                        prop_assert_eq!((event.time, event.channel_group, event.next, event.flags), (7, 3, 0, 0));
                        prop_assert_eq!(usize::from(event.event_bytes), len);
                        let owned = Owned {
                            slots: BTreeSet::from([slot]),
                            buffers: usize::from(len > width.bytes()),
                            has_data: true,
                        };
                        flying.push_back((slot, owned));
                    }
                    Err(DriverError::TooLong { .. }) => prop_assert!(len > BUFFER_SIZE),
                    Err(error) => {
                        let empty = matches!(error, DriverError::NoMessage | DriverError::NoBuffer);
                        prop_assert!(empty, "{}", error);
                    }
                },
                Step::Complete(f, reclaim) if !flying.is_empty() => {
                    let f = f % flying.len();
                    if let Some((slot, owned)) = flying.remove(f) {
                        // The device may write whatever it likes there.
                        for slot in &owned.slots {
                            allocator.pool.write(*slot, 0, &[0xFF; 40]);
                        }
                        card.complete(&allocator, slot, 1);
                        done.push_back(owned);
                    }
                    if reclaim {
                        prop_assert_eq!(allocator.reclaim(), Ok(()));
                    }
                }
                Step::GetBuffer => buffers.extend(allocator.get_buffer()),
                Step::PutBuffer(b) if !buffers.is_empty() => {
                    let buffer = buffers.swap_remove(b % buffers.len());
                    prop_assert_eq!(allocator.put_buffer(buffer), Ok(()));
                }
                Step::Reset => {
                    flying.clear();
                    done.clear();
                    consumed = 0;
                    card.publish(&allocator, 0);
                    allocator.reclaim_after_reset();
                }
                _ => {}
            }
            done.drain(..allocator.queue.consumed().wrapping_sub(consumed) as usize);
            let owned = || {
                let flying = flying.iter().map(|(_, owned)| owned);
                held.iter().map(|(_, owned)| owned).chain(flying).chain(&done)
            };
            let slots: Vec<u32> = owned().flat_map(|owned| owned.slots.iter().copied()).collect();
            let unique: BTreeSet<u32> = slots.iter().copied().collect();
            prop_assert_eq!(unique.len(), slots.len(), "a slot with two owners");
            prop_assert_eq!(allocator.free_slots(), SLOTS as usize - slots.len());
            let out = owned().map(|owned| owned.buffers).sum::<usize>() + buffers.len();
            prop_assert_eq!(allocator.free_buffers(), BUFFERS as usize - out);
        }
    }
}
