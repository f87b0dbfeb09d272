//! One direction of a connection that is carried: what waits to be sent on, and where it ends.
//!
//! It is told what came and says what there is to send. This module refuses to know sockets.

use super::body::Framing;
use super::head::{self, HEAD_MAX, Refusal, Request};

/// The instance said something that is no HTTP, or less than it announced.
const BROKEN: Refusal = Refusal::new(502, "the instance broke off its answer");

/// What passes.
#[derive(Debug)]
enum Course {
    /// Bytes, as they come.
    Bytes,
    /// A body.
    Body(Framing),
    /// The head of an answer, as far as it came.
    Head(Vec<u8>),
}

/// What an answer is an answer to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    method: String,
    wants_socket: bool,
    hears_interim: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    course: Course,
    asked: Asked,
    waiting: Vec<u8>,
    sent: usize,
    is_ended: bool,
    has_begun: bool,
    is_shut: bool,
}

impl Lane {
    fn new(course: Course, waiting: Vec<u8>) -> Self {
        Self {
            course,
            asked: Asked::default(),
            waiting,
            sent: 0,
            is_ended: false,
            has_begun: false,
            is_shut: false,
        }
    }

    /// Passes bytes as they come, and their end.
    pub(crate) fn of_bytes() -> Self {
        Self::new(Course::Bytes, Vec::new())
    }

    /// Passes a request: its head, and the body that follows it.
    pub(crate) fn of_request(head: Vec<u8>, framing: Framing) -> Self {
        Self::new(Course::Body(framing), head)
    }

    /// Passes the one answer to a request.
    pub(crate) fn of_answer(request: &Request) -> Self {
        let asked = Asked {
            method: request.method.clone(),
            wants_socket: request.wants_socket,
            hears_interim: request.hears_interim(),
        };
        Self { asked, ..Self::new(Course::Head(Vec::new()), Vec::new()) }
    }

    /// Whether more may come.
    pub(crate) fn wants_input(&self) -> bool {
        let is_whole = matches!(&self.course, Course::Body(framing) if framing.is_over());
        !self.is_ended && !is_whole && self.waiting.is_empty()
    }

    /// Whether all there is to pass has passed.
    pub(crate) fn is_over(&self) -> bool {
        let is_whole = matches!(&self.course, Course::Body(framing) if framing.is_over());
        self.waiting.is_empty() && (self.is_ended || is_whole)
    }

    /// Whether it passes bytes as they come.
    pub(crate) const fn is_of_bytes(&self) -> bool {
        matches!(self.course, Course::Bytes)
    }

    /// Whether anything of an answer was passed on, so that no other can be given.
    pub(crate) const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the receiver has to be told of the end now.
    pub(crate) fn shuts(&mut self) -> bool {
        let is_due = self.is_of_bytes() && self.is_over() && !self.is_shut;
        self.is_shut |= is_due;
        is_due
    }

    /// What waits to be sent on.
    pub(crate) fn output(&self) -> &[u8] {
        self.waiting.get(self.sent..).unwrap_or_default()
    }

    /// So much of it was sent.
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.waiting.len() {
            self.waiting.clear();
            self.sent = 0;
        }
    }

    /// From now on bytes pass as they come.
    pub(crate) fn become_bytes(&mut self) {
        self.course = Course::Bytes;
    }

    /// Nobody takes what is left.
    pub(crate) fn abandon(&mut self) {
        self.waiting.clear();
        self.sent = 0;
        self.is_ended = true;
    }

    /// These bytes came. What comes after the end of a body is dropped.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match &mut self.course {
            Course::Bytes => self.waiting.extend_from_slice(bytes),
            Course::Body(framing) => {
                let count = framing.pass(bytes).map_err(|_| BROKEN)?;
                self.waiting.extend_from_slice(bytes.get(..count).unwrap_or_default());
            }
            Course::Head(so_far) => {
                so_far.extend_from_slice(bytes);
                let so_far = std::mem::take(so_far);
                return self.take_head(so_far);
            }
        }
        Ok(())
    }

    /// The sender has ended.
    pub(crate) fn end(&mut self) -> Result<(), Refusal> {
        self.is_ended = true;
        match &self.course {
            Course::Bytes | Course::Body(Framing::UntilEnd) => Ok(()),
            Course::Body(framing) if framing.is_over() => Ok(()),
            Course::Body(_) | Course::Head(_) => Err(BROKEN),
        }
    }

    /// Passes interim answers on, and then the head of the answer with what came after it.
    fn take_head(&mut self, mut so_far: Vec<u8>) -> Result<(), Refusal> {
        while let Some(length) = head::end(&so_far) {
            let rest = so_far.split_off(length);
            let answer = head::answer(&so_far, &self.asked.method)?;
            so_far = rest;
            if (102..200).contains(&answer.code) || answer.code == 100 {
                if self.asked.hears_interim {
                    self.waiting.extend(answer.forward());
                }
                continue;
            }
            if answer.code == 101 && !self.asked.wants_socket {
                return Err(Refusal::new(502, "the instance changes to what nobody asked for"));
            }
            self.waiting.extend(answer.forward());
            self.has_begun = true;
            self.course =
                if answer.code == 101 { Course::Bytes } else { Course::Body(answer.framing) };
            return self.take(&so_far);
        }
        if so_far.len() > HEAD_MAX {
            return Err(Refusal::new(502, "the head of the instance's answer is too long"));
        }
        self.course = Course::Head(so_far);
        Ok(())
    }
}
