//! DMA_READ and DMA_WRITE to the client, from other threads.

use crate::common::*;
use dmus_card::device::{RemoteError, RemoteMemory};
use dmus_card::transport::server::{ClientMemory, ClientMemoryError, Limits};
use rustix::io::Errno;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

type Outcome = Result<Vec<u8>, ClientMemoryError>;

fn reading(memory: &ClientMemory, iova: u64, size: usize) -> JoinHandle<Outcome> {
    let memory = memory.clone();
    spawn(move || {
        let mut data = vec![0xEE; size];
        memory.read(iova, &mut data).map(|()| data)
    })
}

fn writing(memory: &ClientMemory, iova: u64, data: Vec<u8>) -> JoinHandle<Result<(), ClientMemoryError>> {
    let memory = memory.clone();
    spawn(move || memory.write(iova, &data))
}

/// What the client's memory holds.
fn pattern(iova: u64, size: usize) -> Vec<u8> {
    (iova..iova + size as u64).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn read_reply(request: &Reply) -> Vec<u8> {
    let (iova, size) = (u64_at(&request.payload, 0), u64_at(&request.payload, 8));
    let payload = [&request.payload[..16], &pattern(iova, size as usize)].concat();
    message(request.id, DMA_READ, REPLY, &payload)
}

fn short(memory: Duration) -> Client {
    Client::with_version(QEMU_VERSION, Limits { send: PATIENCE, memory })
}

#[test]
fn a_read_is_asked_and_answered() {
    let mut client = Client::new();
    let reader = reading(&client.memory, 0x1234, 100);
    let request = client.receive();
    assert_eq!((request.command, request.flags, request.errno), (DMA_READ, 0, 0));
    assert_eq!((u64_at(&request.payload, 0), u64_at(&request.payload, 8)), (0x1234, 100));
    assert_eq!(request.payload.len(), 16);
    client.send_bytes(&read_reply(&request));
    assert_eq!(reader.join().unwrap().unwrap(), pattern(0x1234, 100));
}

#[test]
fn a_write_is_asked_and_acknowledged() {
    let mut client = Client::new();
    let writer = writing(&client.memory, 0x8000, vec![3, 1, 4]);
    let request = client.receive();
    assert_eq!((request.command, request.flags), (DMA_WRITE, 0));
    assert_eq!(request.payload, [&0x8000u64.to_le_bytes()[..], &3u64.to_le_bytes(), &[3, 1, 4]].concat());
    assert!(!writer.is_finished());
    client.send_bytes(&message(request.id, DMA_WRITE, REPLY, &request.payload[..16]));
    writer.join().unwrap().unwrap();
}

#[test]
fn requests_are_served_while_a_reply_is_awaited() {
    let mut client = Client::new();
    let reader = reading(&client.memory, 0, 8);
    let request = client.receive();
    for _ in 0..10 {
        client.expect_alive();
        client.call(REGION_WRITE, &write_to(0, BAR0, &[0; 4])).expect_ok();
    }
    assert!(!reader.is_finished());
    client.send_bytes(&read_reply(&request));
    assert_eq!(reader.join().unwrap().unwrap(), pattern(0, 8));
}

#[test]
fn long_accesses_are_split_and_at_most_128_kib_are_under_way() {
    let mut client = Client::new();
    let reader = reading(&client.memory, 0x1_0000_0000, 200_000);
    let mut requests = vec![client.receive(), client.receive()];
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(std::io::Read::read(&mut client.stream, &mut [0]).is_err(), "a third before a reply");
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sizes = Vec::new();
    while let Some(request) = requests.pop() {
        sizes.push(u64_at(&request.payload, 8));
        client.send_bytes(&read_reply(&request));
        if sizes.len() + requests.len() < 4 {
            requests.push(client.receive());
        }
    }
    sizes.sort_unstable();
    assert_eq!(sizes, [200_000 - 3 * 65536, 65536, 65536, 65536]);
    assert!(reader.join().unwrap().unwrap() == pattern(0x1_0000_0000, 200_000));
}

#[test]
fn the_clients_own_limit_splits_too() {
    let limits = Limits { send: PATIENCE, memory: PATIENCE };
    let mut client = Client::with_version(r#"{"capabilities":{"max_data_xfer_size":3}}"#, limits);
    // More pieces than there are slots for.
    let reader = reading(&client.memory, 0x100, 1000);
    for piece in 0..334u64 {
        let request = client.receive();
        let size = if piece == 333 { 1 } else { 3 };
        assert_eq!((u64_at(&request.payload, 0), u64_at(&request.payload, 8)), (0x100 + piece * 3, size));
        client.send_bytes(&read_reply(&request));
    }
    assert_eq!(reader.join().unwrap().unwrap(), pattern(0x100, 1000));
}

#[test]
fn ranges_are_asked_for_at_once_and_put_one_behind_the_other() {
    let mut client = Client::new();
    let memory = client.memory.clone();
    let ranges = [(0x9000, 5), (0x100, 0), (0x2000, 70_000), (u64::MAX, 1)];
    let reader = spawn(move || {
        let mut data = vec![0xEE; 70_006];
        let passed = std::cell::RefCell::new(vec![]);
        let gate = |iova, count, send: &mut dyn FnMut()| {
            passed.borrow_mut().push((iova, count));
            send();
            true
        };
        memory.fetch(&ranges, &mut data, &gate).map(|()| (data, passed.into_inner()))
    });
    let requests: Vec<_> = (0..4).map(|_| client.receive()).collect();
    for request in requests.iter().rev() {
        let reply = match u64_at(&request.payload, 0) {
            u64::MAX => message(request.id, DMA_READ, REPLY, &[&request.payload[..], &[7]].concat()),
            _ => read_reply(request),
        };
        client.send_bytes(&reply);
    }
    let (data, passed) = reader.join().unwrap().unwrap();
    assert!(data == [pattern(0x9000, 5), pattern(0x2000, 70_000), vec![7]].concat());
    assert_eq!(passed, [(0x9000, 5), (0x2000, 65_536), (0x12000, 4464), (u64::MAX, 1)]);
}

#[test]
fn what_the_gate_holds_back_is_not_sent_and_takes_no_room() {
    let mut client = Client::new();
    let memory = client.memory.clone();
    let refused = spawn(move || {
        // More than there is room for at once.
        (0..200)
            .all(|_| memory.fetch(&[(0x1000, 65_536)], &mut [0; 65_536], &|_, _, _| false) == Err(RemoteError::Refused))
    });
    assert!(refused.join().unwrap());
    client.expect_alive();
    let reader = reading(&client.memory, 0x5000, 4);
    let request = client.receive();
    assert_eq!(u64_at(&request.payload, 0), 0x5000, "nothing came before");
    client.send_bytes(&read_reply(&request));
    assert_eq!(reader.join().unwrap().unwrap(), pattern(0x5000, 4));
}

#[test]
fn replies_in_any_order_reach_their_readers() {
    let mut client = Client::new();
    let readers: Vec<_> = (0..50).map(|i| reading(&client.memory, i << 12, 64)).collect();
    let mut requests: Vec<_> = (0..50).map(|_| client.receive()).collect();
    let mut ids: Vec<_> = requests.iter().map(|request| request.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 50);
    requests.sort_by_key(|request| request.id.wrapping_mul(40503));
    let replies: Vec<u8> = requests.iter().flat_map(read_reply).collect();
    for piece in replies.chunks(97) {
        client.send_bytes(piece);
    }
    for (i, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.join().unwrap().unwrap(), pattern((i as u64) << 12, 64));
    }
}

#[test]
fn the_clients_errno_is_told() {
    let mut client = Client::new();
    for (errno, told) in [(19u32, Errno::NODEV), (0, Errno::IO), (u32::MAX, Errno::IO)] {
        let reader = reading(&client.memory, 0x5000, 16);
        let request = client.receive();
        let mut reply = message(request.id, DMA_READ, ERROR, &[]);
        reply[12..16].copy_from_slice(&errno.to_le_bytes());
        client.send_bytes(&reply);
        let expected = ClientMemoryError::Refused { iova: 0x5000, size: 16, errno: told };
        assert_eq!(reader.join().unwrap(), Err(expected));
    }
    client.expect_alive();
}

#[test]
fn replies_about_something_else_are_errors() {
    let mut client = Client::new();
    let good = [&0x5000u64.to_le_bytes()[..], &4u64.to_le_bytes(), &[1, 2, 3, 4]].concat();
    let other_place = [&0x6000u64.to_le_bytes()[..], &good[8..]].concat();
    let other_count = [&good[..8], &5u64.to_le_bytes(), &good[16..]].concat();
    for payload in [&good[..19], &[&good[..], &[5]].concat(), &other_place, &other_count, &good[..15], &[]] {
        let reader = reading(&client.memory, 0x5000, 4);
        let request = client.receive();
        client.send_bytes(&message(request.id, DMA_READ, REPLY, payload));
        assert_eq!(reader.join().unwrap(), Err(ClientMemoryError::BadReply { iova: 0x5000, size: 4 }));
    }
    let writer = writing(&client.memory, 0x5000, vec![0; 4]);
    let request = client.receive();
    client.send_bytes(&message(request.id, DMA_WRITE, REPLY, &other_place[..16]));
    assert_eq!(writer.join().unwrap(), Err(ClientMemoryError::BadReply { iova: 0x5000, size: 4 }));
    client.expect_alive();
}

#[test]
fn replies_with_another_id_or_command_are_ignored() {
    let mut client = Client::new();
    let reader = reading(&client.memory, 0x5000, 4);
    let request = client.receive();
    let mut other = read_reply(&request);
    other[1] ^= 0x40;
    client.send_bytes(&other);
    client.send_bytes(&message(request.id, DMA_WRITE, REPLY, &request.payload[..16]));
    client.expect_alive();
    assert!(!reader.is_finished());
    client.send_bytes(&read_reply(&request));
    client.send_bytes(&read_reply(&request));
    assert_eq!(reader.join().unwrap().unwrap(), pattern(0x5000, 4));
    client.expect_alive();
}

#[test]
fn no_reply_in_time_is_an_error_and_a_late_one_is_ignored() {
    let mut client = short(Duration::from_millis(40));
    let limit = Duration::from_millis(40);
    let late = reading(&client.memory, 0x5000, 4);
    let first = client.receive();
    assert_eq!(late.join().unwrap(), Err(ClientMemoryError::TimedOut { limit }));
    let reader = reading(&client.memory, 0x6000, 4);
    let second = client.receive();
    assert_ne!(first.id, second.id);
    client.send_bytes(&read_reply(&first));
    client.send_bytes(&read_reply(&second));
    assert_eq!(reader.join().unwrap().unwrap(), pattern(0x6000, 4));
}

#[test]
fn a_client_that_never_answers_is_asked_only_so_much() {
    let mut client = short(Duration::from_millis(20));
    for _ in 0..5 {
        let outcome = reading(&client.memory, 0, 200_000).join().unwrap();
        assert!(matches!(outcome, Err(ClientMemoryError::TimedOut { .. })));
    }
    let requests = [client.receive(), client.receive()];
    client.expect_alive();
    // Once it answers, there is room again.
    for request in requests {
        client.send_bytes(&read_reply(&request));
    }
    client.expect_alive();
    let reader = reading(&client.memory, 0, 4);
    let request = client.receive();
    client.send_bytes(&read_reply(&request));
    reader.join().unwrap().unwrap();
}

#[test]
fn leaving_wakes_everyone_who_waits() {
    let mut client = Client::new();
    // Two wait for replies, others for room.
    let readers: Vec<_> = (0..6).map(|i| reading(&client.memory, i << 20, 65536)).collect();
    client.receive();
    client.receive();
    let memory = client.memory.clone();
    let started = Instant::now();
    drop(client);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), Err(ClientMemoryError::Disconnected));
    }
    assert!(started.elapsed() < PATIENCE / 2);
    assert_eq!(memory.write(0, &[1]), Err(ClientMemoryError::Disconnected));
}

#[test]
fn leaving_wakes_who_is_sending() {
    let client = Client::new();
    // More than a socket holds, since nobody reads.
    let writers: Vec<_> = (0..4).map(|i| writing(&client.memory, i << 20, vec![0; 1 << 20])).collect();
    std::thread::sleep(Duration::from_millis(30));
    drop(client);
    for writer in writers {
        assert_eq!(writer.join().unwrap(), Err(ClientMemoryError::Disconnected));
    }
}

#[test]
fn nothing_is_asked_before_version() {
    let client = Client::raw();
    assert_eq!(client.memory.read(0, &mut [0; 4]), Err(ClientMemoryError::NotReady));
}

#[test]
fn ranges_beyond_the_last_address_are_errors_and_empty_ones_are_not() {
    let client = Client::new();
    let expected = ClientMemoryError::Range { iova: u64::MAX - 2, size: 4 };
    assert_eq!(client.memory.read(u64::MAX - 2, &mut [0; 4]), Err(expected));
    assert_eq!(client.memory.read(u64::MAX, &mut []), Ok(()));
    assert_eq!(client.memory.write(7, &[]), Ok(()));
}

#[test]
fn the_serving_thread_is_told_that_it_cannot_wait() {
    let mut client = Client::new();
    client.device.record.lock().unwrap().memory = Some(client.memory.clone());
    client.call(RESET, &[]).expect_ok();
    assert_eq!(client.device.record.lock().unwrap().memory_outcome, Some(Err(ClientMemoryError::ServingThread)));
}

#[test]
fn replies_and_requests_interleave_at_message_boundaries_only() {
    let mut client = Client::new();
    let writers: Vec<_> = (0..4u64)
        .map(|i| {
            let memory = client.memory.clone();
            spawn(move || (0..50).try_for_each(|_| memory.write(i << 20, &pattern(i << 20, 10_000))))
        })
        .collect();
    let mut written = 0;
    let mut read = 0;
    let total = 300u16;
    for id in 0..total {
        client.send_bytes(&message(id, REGION_READ, 0, &access(0, CONFIG, 4096)));
        while read <= id || (id == total - 1 && written < 200) {
            let got = client.receive();
            if got.command == REGION_READ {
                assert_eq!((got.id, got.payload.len()), (read, 16 + 4096));
                read += 1;
            } else {
                let iova = u64_at(&got.payload, 0);
                assert!(got.payload[16..] == pattern(iova, 10_000));
                client.send_bytes(&message(got.id, DMA_WRITE, REPLY, &got.payload[..16]));
                written += 1;
            }
        }
    }
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
}
