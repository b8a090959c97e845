//! Turns of a settled card: time stands, all is rendered, and nothing but the rings of render streams brings anything. What an event costs beside
//! its music is mostly here.
//!
//! Fed by the doorbell page, inside the turn's section; feeds the streams with what is submitted. What is out of the ordinary it leaves to a whole turn.

use super::{Core, Turn};
use crate::link::{Link, Shared};
use crate::stream::Glance;
use dmus_interface::protocol::card::Look;
use parking_lot::MutexGuard;

impl Core {
    /// Looks at a card that is settled, and presents what is submitted if that is one event of the usual kind.
    #[inline(never)]
    pub(super) fn glance(&mut self, shared: &Shared) -> Glance {
        let look = Look::at(&shared.page);
        if self.clock.would_move(look.grant()) {
            return Glance::Unsettled;
        }
        // As most cards: that nothing else is to be looked at is worth a tenth of what a lone event costs.
        if let [stream] = &mut self.streams[..] {
            return match look.tail(&shared.page, stream.rings.index).wrapping_sub(stream.rings.fetched) {
                0 => Glance::Quiet,
                1 => stream.present_one(shared),
                _ => Glance::Several,
            };
        }
        let mut found = None;
        for stream in &mut self.streams {
            let tail = look.tail(&shared.page, stream.rings.index);
            match tail.wrapping_sub(stream.rings.fetched) {
                0 => {}
                1 if found.is_none() => found = Some(stream),
                _ => return Glance::Several,
            }
        }
        found.map_or(Glance::Quiet, |stream| stream.present_one(shared))
    }

    /// Serves the streams of a card that is settled, as long as all is plain and due. False leaves it, or what is left of it, to a whole turn.
    fn serve_due(&mut self, link: &Link, shared: &Shared) -> bool {
        let look = Look::at(&shared.page);
        self.streams.iter_mut().all(|stream| {
            let tail = look.tail(&shared.page, stream.rings.index);
            tail == stream.rings.fetched || stream.serve_due(link, shared, tail)
        })
    }

    /// A turn of a settled card after a first look.
    #[inline(never)]
    pub(super) fn turn_settled<'a>(&mut self, link: &'a Link, shared: MutexGuard<'a, Shared>, glance: Glance) -> Turn {
        if glance == Glance::Several && self.serve_due(link, &shared) {
            return Turn::Worked;
        }
        match glance {
            Glance::Presented => Turn::Worked,
            Glance::Following => {
                self.streams.iter_mut().for_each(|stream| stream.follow_up(link, &shared));
                Turn::Worked
            }
            Glance::Quiet => {
                self.streams.iter_mut().for_each(|stream| stream.report(&link.stats));
                Turn::Quiet
            }
            Glance::Several | Glance::Unsettled => self.turn_whole(link, shared),
        }
    }
}
