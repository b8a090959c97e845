//! Carries out what a guest asked of a stream: to open, to close, to change its state.
//!
//! Fed by a turn with the requests that the transport left; feeds the engine's lists of streams, and answers on the
//! doorbell page. In virtual time a request takes effect when the grant that was there before it is reached, which is
//! the same time in each run. It does not wait for a grant that is more than a minute away, nor where time itself waits
//! for a posted slot or for the sink.

use super::Core;
use crate::capture::CaptureStream;
use crate::check::{Checker, Observer};
use crate::identity::{CHANNEL_GROUPS, SAMPLE_RATE, VOICES};
use crate::replay_log::Observation;
use crate::room::has_room;
use crate::shared::{Refusal, Request, Requests, Section, Shared, StreamConfig, Transitioned};
use crate::stream::RenderStream;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use std::sync::Arc;

impl Core {
    /// Whether requests can be carried out now: in virtual time, once everything up to the grant is rendered and
    /// presented, unless that is far away, or time stands for want of posted slots.
    pub(super) fn may_answer(&mut self, shared: &Shared) -> bool {
        if !self.clock.is_virtual() {
            return true;
        }
        let waits = self.is_stalled() || self.clock.is_far_from_grant() || !self.output.is_ready();
        waits || self.clock.is_at_grant() && !self.has_to_render(shared)
    }

    /// Carries out all requests and answers them. False if a reset has made it void.
    #[cold]
    pub(super) fn answer_requests(&mut self, section: &mut Section<'_>) -> bool {
        let Requests { streams, command, .. } = std::mem::take(&mut self.requests);
        for (index, request) in streams.into_iter().enumerate() {
            if let Some(request) = request
                && !self.answer_request(section, index, request)
            {
                return false;
            }
        }
        self.presenting = self.presenting && self.is_any_due();
        let Some(command) = command else {
            return true;
        };
        let shared = section.shared();
        let answer = section.unlocked(|| self.command(shared, command));
        // Messages may cost more from now on, or less.
        self.move_to(self.clock.now().position);
        if let (Some(answer), true) = (answer, section.is_of(self.epoch)) {
            section.answer_command(command.opcode, answer);
        }
        section.is_of(self.epoch)
    }

    fn answer_request(&mut self, section: &mut Section<'_>, index: usize, request: Request) -> bool {
        let shared = section.shared();
        if let Request::Open(_) = request {
            self.report_closed_tail(index, section);
        }
        let result = section.unlocked(|| match request {
            Request::Open(config) => self.open(shared, index, config),
            Request::Close => Ok(self.close(shared, index)),
            Request::SetState(state) => self.set_state(shared, index, state),
        });
        // What STOP discards, and the period that PAUSE ends, is visible before the state reads back.
        while section.is_of(self.epoch) && self.has_news(index) {
            self.fetch_rest(section);
            if section.is_of(self.epoch) {
                self.publish::<true>(section);
            }
        }
        if !section.is_of(self.epoch) {
            return false;
        }
        if let Request::Open(_) | Request::Close = request {
            section.clear_stream(index);
            self.sleeper.forget_tail(index);
        }
        if let Some(log) = section.shared().replay_log() {
            log.show(|| match (result, request) {
                (Err(fault), _) => Observation::Refused { stream: index, fault },
                (Ok(_), Request::Close) => Observation::Closed { stream: index },
                (Ok(_), Request::Open(StreamConfig { kind, slots, buffers, buffer_size, .. })) => {
                    Observation::Opened { stream: index, kind, slots, buffers, buffer_size }
                }
                (Ok(Transitioned { state, time_base, .. }), Request::SetState(_)) => {
                    Observation::Changed { stream: index, state, time_base }
                }
            });
        }
        section.answer(index, result.map_err(|fault| Refusal::of(fault, request.register())));
        true
    }

    /// Whether a stream has something to publish, or will have.
    fn has_news(&self, index: usize) -> bool {
        let render = self.streams.render.iter().map(|stream| (&stream.queues, false));
        let capture = self.streams.capture.iter().map(|stream| (&stream.queues, stream.has_work()));
        render.chain(capture).any(|(queues, work)| queues.stream == index && (work || queues.has_news()))
    }

    fn open(&mut self, shared: &Shared, index: usize, config: StreamConfig) -> Result<Transitioned, Fault> {
        let room = || has_room(config.memory());
        let room = match shared.replay_log() {
            None => room(),
            Some(log) => log.has_room(room),
        };
        if !room {
            return Err(Fault::NoMemory);
        }
        let elsewhere = shared.replay_log().is_some() || shared.deviations().is_some();
        let is_virtual = self.clock.is_virtual();
        let observe = |checker: &Arc<Checker>| {
            let mut observer = Observer::new(Arc::clone(checker), index, config, is_virtual);
            let (owners, log) = (shared.owners().cloned(), shared.shared_replay_log());
            if owners.is_some() || log.as_ref().is_some_and(|log| log.replays_culprits()) {
                observer.set_owners(owners, log, shared.section().maps());
            }
            Box::new(observer)
        };
        let observer = shared.checker().map(observe);
        let streams = &mut self.streams;
        if config.kind == Type::Render {
            shared.stats().pool_slots.raise_to(u64::from(config.slots));
            let mut synth = self.library.spare.pop().unwrap_or_else(|| self.library.new_synth(shared));
            synth.restore(CHANNEL_GROUPS, VOICES);
            let place = streams.render.partition_point(|stream| stream.queues.stream < index);
            let monitored = streams.inputs.monitors_render();
            streams.render.insert(place, RenderStream::new(index, config, synth, monitored, observer, elsewhere));
        } else {
            streams.capture.push(CaptureStream::new(index, config, streams.drift, observer, elsewhere));
        }
        streams.open |= 1 << index;
        Ok(Transitioned { open: true, ..Transitioned::default() })
    }

    fn close(&mut self, shared: &Shared, index: usize) -> Transitioned {
        let streams = &mut self.streams;
        if let Some(place) = streams.render.iter().position(|stream| stream.queues.stream == index) {
            self.library.spare.push(streams.render.remove(place).abandon(shared.stats()));
        }
        streams.capture.retain(|stream| stream.queues.stream != index);
        streams.open &= !(1 << index);
        Transitioned::default()
    }

    fn set_state(&mut self, shared: &Shared, index: usize, state: State) -> Result<Transitioned, Fault> {
        let stats = shared.stats();
        let master = self.clock.master_time();
        if state == State::Run && !self.any_runs() && !self.clock.is_virtual() {
            // Nothing was rendered while nothing ran: the audio goes on here.
            self.move_to(self.clock.now().position.max(master.to_sample(SAMPLE_RATE)));
        }
        let now = self.clock.now();
        let capture = self.streams.capture.iter_mut().find(|stream| stream.queues.stream == index);
        let halted = |halted: bool| if halted && state != State::Stop { Err(Fault::Halted) } else { Ok(()) };
        let time_base =
            if let Some(stream) = self.streams.render.iter_mut().find(|stream| stream.queues.stream == index) {
                halted(stream.queues.is_halted())?;
                stream.set_state(state, master, now, stats);
                stream.time_base()
            } else if let Some(stream) = capture {
                halted(stream.queues.is_halted())?;
                if state == State::Run && stream.receives_inputs() {
                    self.streams.inputs.begin(master);
                }
                stream.set_state(state, master, now.start, stats);
                stream.time_base()
            } else {
                return Err(Fault::Closed);
            };
        Ok(Transitioned { open: true, state, time_base })
    }

    pub(super) fn stream(&mut self, index: usize) -> Option<&mut RenderStream> {
        self.streams.render.iter_mut().find(|stream| stream.queues.stream == index)
    }
}
