//! Where messages begin and end: split, glued, cut off, too long, too short, replies out of nowhere, floods of
//! descriptors.

use crate::common::*;
use dmus_card::device::Region;
use dmus_card::transport::server::{Limits, ServeError};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

#[test]
fn ids_are_echoed() {
    let mut client = Client::new();
    for id in [0, 1, 0x7FFF, 0x8000, 0xFFFF, 1, 1] {
        client.send_bytes(&message(id, REGION_READ, 0, &access(0, BAR0, 4)));
        client.send_bytes(&message(id, 99, 0, &[]));
        client.reply_to(id, REGION_READ).expect_ok();
        client.reply_to(id, 99).expect_error(ENOSYS);
    }
}

#[test]
fn a_session_sent_byte_by_byte_is_served() {
    let mut client = Client::raw();
    let mut session = message(1, VERSION, 0, &version(0, 1, QEMU_VERSION));
    session.extend(message(2, DMA_MAP, 0, &map(3, 0, 0, 0x1000)));
    session.extend(message(3, REGION_WRITE, NO_REPLY, &write_to(4, BAR0, &[1, 2, 3, 4])));
    session.extend(message(4, REGION_READ, 0, &access(4, BAR0, 4)));
    for byte in session {
        client.send_bytes(&[byte]);
        std::thread::yield_now();
    }
    client.reply_to(1, VERSION).expect_ok();
    client.reply_to(2, DMA_MAP).expect_ok();
    client.reply_to(4, REGION_READ).expect_ok();
    let expected = [
        Call::Map(0, 0x1000, 0, false, true),
        Call::Write(Region::Registers, 4, vec![1, 2, 3, 4]),
        Call::Read(Region::Registers, 4, 4),
    ];
    assert_eq!(client.calls(), expected);
}

#[test]
fn a_message_split_anywhere_acts_once_it_is_whole() {
    let mut client = Client::new();
    let bytes = message(7, REGION_WRITE, 0, &write_to(8, BAR0, &[9, 8, 7, 6]));
    for at in 1..bytes.len() {
        client.send_bytes(&bytes[..at]);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(client.calls().len(), at - 1, "acted on {at} bytes");
        client.send_bytes(&bytes[at..]);
        client.reply_to(7, REGION_WRITE).expect_ok();
    }
}

#[test]
fn many_messages_in_one_write_are_served_in_order() {
    let mut client = Client::raw();
    let mut bytes = message(0, VERSION, 0, &version(0, 1, QEMU_VERSION));
    for id in 1..2000 {
        bytes.extend(message(id, REGION_READ, 0, &access(u64::from(id) % 4096, BAR0, 1)));
    }
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    client.reply_to(0, VERSION).expect_ok();
    for id in 1..2000 {
        assert_eq!(client.reply_to(id, REGION_READ).expect_ok()[16], id as u8);
    }
    sender.join().unwrap();
}

#[test]
fn a_split_message_keeps_the_descriptor_of_its_first_piece() {
    let mut client = Client::new();
    let ram = memory(0x1000);
    let bytes = message(5, DMA_MAP, 0, &map(3, 0, 0, 0x1000));
    for at in [1, 15, 16, 17, 47] {
        client.send_fds(&bytes[..at], &[ram.as_fd()]);
        std::thread::sleep(Duration::from_millis(5));
        // The rest goes with the next message, which has one of its own.
        let next = message(6, DMA_MAP, 0, &map(1, 0, 0x1000, 0x1000));
        client.send_bytes(&bytes[at..]);
        client.send_fds(&next, &[ram.as_fd()]);
        client.reply_to(5, DMA_MAP).expect_ok();
        client.reply_to(6, DMA_MAP).expect_ok();
        client.call(DMA_UNMAP, &unmap(2, 0, 0)).expect_ok();
    }
    let maps: Vec<_> = client.calls().into_iter().filter(|call| matches!(call, Call::Map(..))).collect();
    assert_eq!(maps.len(), 10);
    assert!(maps.iter().all(|call| matches!(call, Call::Map(_, _, _, true, _))));
}

#[test]
fn sizes_below_a_header_end_the_connection_after_an_error_reply() {
    for size in [0, 1, 8, 15] {
        let mut client = Client::new();
        client.send_bytes(&sized(3, REGION_READ, size, 0, &[]));
        client.reply_to(3, REGION_READ).expect_error(EINVAL);
        client.expect_closed();
        assert!(matches!(client.join(), Err(ServeError::Framing(said)) if said == size));
    }
}

#[test]
fn sizes_beyond_the_limit_end_the_connection_after_an_error_reply() {
    for size in [65_569, 0x7FFF_FFFF, 0xFFFF_FFFF] {
        for mut client in [Client::new(), Client::raw()] {
            client.send_bytes(&sized(3, REGION_WRITE, size, 0, &[0; 40]));
            client.reply_to(3, REGION_WRITE).expect_error(EINVAL);
            client.expect_closed();
            assert!(matches!(client.join(), Err(ServeError::Framing(said)) if said == size));
        }
    }
}

#[test]
fn a_lost_frame_that_wants_no_reply_gets_none() {
    for flags in [NO_REPLY, REPLY] {
        let mut client = Client::new();
        client.send_bytes(&sized(3, REGION_WRITE, 3, flags, &[]));
        client.expect_closed();
        assert!(client.join().is_err());
    }
}

#[test]
fn the_longest_message_is_taken_whole() {
    let mut client = Client::new();
    for _ in 0..5 {
        client.call(REGION_WRITE, &[access(0, BAR0, 65536), vec![0; 65536]].concat()).expect_error(EINVAL);
    }
    client.expect_alive();
}

#[test]
fn replies_to_nothing_are_ignored() {
    let mut client = Client::new();
    for command in [DMA_READ, DMA_WRITE, REGION_WRITE, RESET, VERSION, 0] {
        client.send_bytes(&message(0, command, REPLY, &[0; 40]));
        client.send_bytes(&message(0x4001, command, ERROR, &[]));
    }
    client.expect_alive();
    assert_eq!(client.calls(), []);
}

#[test]
fn messages_of_no_known_kind_are_refused() {
    let mut client = Client::new();
    for kind in 2..16 {
        client.send_bytes(&message(9, RESET, kind, &[]));
        client.reply_to(9, RESET).expect_error(EINVAL);
        client.send_bytes(&message(9, RESET, kind | NO_REPLY, &[]));
    }
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn no_error_answers_what_wants_no_reply() {
    let mut client = Client::new();
    for command in 0..20 {
        client.post(command, &[0xFF; 20]);
        client.post(command, &[]);
    }
    client.expect_alive();
}

#[test]
fn seventeen_descriptors_are_refused_and_the_next_message_is_served() {
    let mut client = Client::new();
    let mine = event();
    for count in [17, 18, 64, 253] {
        let fds: Vec<BorrowedFd<'_>> = vec![mine.as_fd(); count];
        client.call_fds(4, &words(&[16, 0, 0, 0]), &fds).expect_error(EINVAL);
        client.call_fds(SET_IRQS, &irqs(0x24, 2, 0, 9), &fds).expect_error(EINVAL);
        client.call_fds(DMA_MAP, &map(3, 0, 0, 0x1000), &fds).expect_error(EINVAL);
        client.expect_alive();
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn descriptors_with_every_byte_add_up() {
    let mut client = Client::new();
    let mine = event();
    let bytes = message(5, SET_IRQS, 0, &irqs(0x24, 2, 0, 9));
    // Nine in all are right, however they come; 36 are too many.
    for byte in &bytes[..9] {
        client.send_fds(&[*byte], &[mine.as_fd()]);
    }
    client.send_bytes(&bytes[9..]);
    client.reply_to(5, SET_IRQS).expect_ok();
    for byte in &bytes {
        client.send_fds(&[*byte], &[mine.as_fd()]);
    }
    client.reply_to(5, SET_IRQS).expect_error(EINVAL);
    client.expect_alive();
}

#[test]
fn leaving_between_messages_is_no_error() {
    assert!(Client::new().finish().is_ok());
    assert!(Client::raw().finish().is_ok());
}

#[test]
fn leaving_in_the_middle_of_a_message_is_told() {
    let bytes = message(1, REGION_WRITE, 0, &write_to(0, BAR0, &[1; 4]));
    for at in 1..bytes.len() {
        let mut client = Client::new();
        client.send_bytes(&bytes[..at]);
        assert_eq!(client.calls(), []);
        let record = client.device.record.clone();
        assert!(matches!(client.finish(), Err(ServeError::Cut(left)) if left == at));
        assert_eq!(calls(&record), []);
    }
}

#[test]
fn leaving_without_reading_replies_is_no_error() {
    for _ in 0..50 {
        let mut client = Client::new();
        let mut bytes = Vec::new();
        for id in 0..50 {
            bytes.extend(message(id, REGION_READ, 0, &access(0, CONFIG, 1024)));
        }
        client.send_bytes(&bytes);
        client.stream.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(matches!(client.join(), Ok(())));
    }
}

#[test]
fn a_client_that_reads_nothing_is_dropped_after_the_time_limit() {
    let limits = Limits { send: Duration::from_millis(50), memory: PATIENCE };
    let mut client = Client::with_version(QEMU_VERSION, limits);
    let bytes = message(1, REGION_READ, 0, &access(0, CONFIG, 4096));
    while client.stream.write_all(&bytes).is_ok() {}
    assert!(matches!(client.join(), Err(ServeError::Stalled(_))));
}
