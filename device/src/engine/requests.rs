//! Carries out what a guest asked of a stream: to open, to close, to change its state.
//!
//! Fed by a turn with the requests that the transport left; feeds the engine's lists of streams, and answers on the doorbell page.

use super::Core;
use crate::capture::CaptureStream;
use crate::identity::{CHANNEL_GROUPS, SAMPLE_RATE, VOICES};
use crate::link::{Link, Request, StreamView};
use crate::stream::Stream;
use dmus_interface::doorbell;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::Page;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use std::sync::atomic::Ordering;

impl Core {
    pub(super) fn carry_out_all(&mut self, link: &Link, requests: [Option<Request>; STREAMS]) -> bool {
        let mut any = false;
        for (index, request) in requests.into_iter().enumerate() {
            if let Some(request) = request {
                self.look_at_clock();
                self.carry_out(link, index, request);
                any = true;
            }
        }
        any
    }

    fn carry_out(&mut self, link: &Link, index: usize, request: Request) {
        let now = self.master_time();
        let mut view = StreamView::default();
        let mut result = Ok(());
        match request {
            Request::Open(config) => {
                if config.kind != Type::Render {
                    self.captures.push(CaptureStream::new(index, config, self.drift));
                } else {
                    link.stats.pool_slots.raise_to(u64::from(config.slots));
                    let mut synth = self.spare.pop().unwrap_or_else(|| self.new_synth());
                    synth.restore(CHANNEL_GROUPS, VOICES);
                    let place = self.streams.partition_point(|stream| stream.rings.index < index);
                    self.streams.insert(place, Stream::new(index, config, synth, self.inputs.hears_render()));
                }
                view.open = true;
            }
            Request::Close => {
                if let Some(place) = self.streams.iter().position(|stream| stream.rings.index == index) {
                    self.spare.push(self.streams.remove(place).abandon(&link.stats));
                }
                self.captures.retain(|stream| stream.rings.index != index);
            }
            Request::SetState(state) => {
                if state == State::Run && !self.any_runs() && !self.clock.is_virtual() {
                    // Nothing was rendered while nothing ran: the audio goes on here.
                    self.move_to(self.now.position.max(now.to_sample(SAMPLE_RATE)));
                }
                let position = self.now;
                if let Some(stream) = self.stream(index) {
                    stream.set_state(state, now, &position, &link.stats);
                    view.open = true;
                    view.state = state;
                    view.time_base = stream.time_base();
                } else if let Some(stream) = self.captures.iter_mut().find(|stream| stream.rings.index == index) {
                    if state == State::Run && stream.hears_inputs() {
                        self.inputs.begin(now);
                    }
                    stream.set_state(state, now, position.position_time(), &link.stats);
                    view.open = true;
                    view.state = state;
                    view.time_base = stream.time_base();
                } else {
                    result = Err(Fault::Closed);
                }
                // What STOP discards is complete before the state reads back.
                while self.has_work() {
                    let shared = link.lock();
                    if shared.epoch != self.epoch || shared.shutdown {
                        return;
                    }
                    drop(self.serve(link, shared));
                }
            }
        }
        let mut shared = link.lock();
        if shared.epoch == self.epoch {
            if matches!(request, Request::Open(_)) {
                // A stream that was here before may have left its words.
                for word in [doorbell::SUBMISSION_TAIL, doorbell::COMPLETION_EVENT, doorbell::COMPLETION_HEAD] {
                    shared.page.store_u32(doorbell::at(index, word), 0, Ordering::Relaxed);
                }
            }
            shared.views[index].open = view.open;
            shared.views[index].state = view.state;
            shared.views[index].time_base = view.time_base;
            link.answer(&mut shared, index, result);
        }
    }

    pub(super) fn stream(&mut self, index: usize) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.rings.index == index)
    }
}
