//! Words: what processes hear, from people and from each other.
//!
//! The key decision: who says something stands in its label. The user whom a process belongs to is its user; all
//! others who may reach it, by a key that may manage, are as little trusted as any page: what they say is
//! heard, and decides nothing. So only its own user can allow a call; anybody who could end the
//! process can forbid one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::SyncSender;

use yushan_abi::{Label, Message, Readers, Refusal, Role, Sources, ToolResult};

use super::Says;
use super::clerk::Then;
use super::engine::Runtime;
use crate::card::{CARD_MS, Card};
use crate::core::Event;
use crate::life::{Entry, Life};
use crate::process::{Pid, Process, State};

impl Runtime {
    /// Puts a message into a mailbox.
    pub(super) fn deliver(
        &mut self,
        from: Pid,
        to: Pid,
        tenant: &str,
        message: Message,
        then: Then,
    ) -> Result<(), &'static str> {
        let mine = |life: &Life| life.program.request.tenant == tenant && life.exit.is_none();
        if !self.life(to).is_some_and(mine) {
            return Err("there is no such process, or it reads no messages");
        }
        self.core.takes_mail(to)?;
        self.note(to, vec![Entry::Heard(from, Box::new(message.clone()))], then);
        self.tell(Event::Send(from, to, Box::new(message)));
        Ok(())
    }

    /// A message was handed over to whoever waited for one.
    pub(super) fn received(&mut self, pid: Pid, from: Pid, message: &Message) {
        let label = message.label();
        let text = match (from, label.sources.contains(Sources::OTHER_USER)) {
            (Pid(0), false) => format!("from the user: {}", message.text()),
            (Pid(0), true) => format!("from another user: {}", message.text()),
            (from, _) => format!("from process {from}: {}", message.text()),
        };
        let result = ToolResult::new(text, label);
        self.answered(pid, result, true, Then::GoOn(vec![pid]));
    }

    /// What somebody says to a process that asked.
    pub(super) fn says(
        &mut self,
        pid: Pid,
        user: &str,
        says: Says,
        reply: &SyncSender<Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        let asking = |p: &Process| p.state == State::Asking;
        let invalid =
            |detail: &str| Refusal::Invalid { field: "answer".into(), detail: detail.into() };
        let life = self.life(pid).filter(|_| self.core.process(pid).is_some_and(asking));
        let Some((life, call)) = life.and_then(|life| Some((life, life.open.front()?))) else {
            return Err(invalid("this process asks nothing"));
        };
        let question = call.name == "ask";
        match says {
            Says::Text(text) if question => {
                let label = label_of(user, life);
                let result = ToolResult::new(text, label);
                self.answered(pid, result, false, Then::Said(pid, reply.clone()));
            }
            Says::Allow(_, true) if !question && user != life.program.request.tenant => {
                let owner = match life.program.request.tenant.as_str() {
                    "" => "somebody on this machine without a key".into(),
                    owner => format!("the user {owner}"),
                };
                let detail =
                    format!("the process belongs to {owner}, who alone can allow its calls");
                return Err(invalid(&format!("{detail}; forbid it, or end the process")));
            }
            Says::Allow(key, allowed) if !question && key == life.key() => {
                // It asks no more: whoever says it a second time is told so.
                self.tell(Event::Answered(pid, Label::default()));
                let then = Then::Said(pid, reply.clone());
                self.note(pid, vec![Entry::Confirmed(allowed)], then);
            }
            Says::Allow(..) if !question => {
                return Err(invalid("that is not the call it asks for"));
            }
            Says::Text(_) => {
                return Err(invalid(
                    "it asks whether it may make a call; expected `allow`: true or false",
                ));
            }
            Says::Allow(..) => return Err(invalid("it asks a question; expected text")),
        }
        Ok(())
    }

    /// The cards of a user's processes. One that is stale, or of another call, is made out anew.
    pub(super) fn cards(&mut self, user: &str) -> Vec<Card> {
        let now = super::clock();
        let asking = |pid: &Pid| {
            let life = self.life(*pid)?;
            let call = life.open.front().filter(|call| call.name != "ask")?;
            let asks = self.core.process(*pid)?.state == State::Asking;
            let spec = self.world.tools.iter().find(|tool| tool.spec().name == call.name)?;
            (asks && life.program.request.tenant == user).then_some((life, spec.spec()))
        };
        let mut issued = BTreeMap::new();
        let mut cards = Vec::new();
        for pid in self.jobs.keys() {
            let Some((life, spec)) = asking(pid) else { continue };
            let fresh =
                |(key, at): &&(String, u64)| *key == life.key() && now < at.saturating_add(CARD_MS);
            let at = self.issued.get(pid).filter(fresh).map_or(now, |(_, at)| *at);
            issued.insert(*pid, (life.key(), at));
            cards.push(Card::of(life, spec, at));
        }
        self.issued.retain(|pid, _| self.jobs.contains_key(pid));
        self.issued.extend(issued);
        cards
    }

    /// What a user says to one card.
    pub(super) fn decide(
        &mut self,
        user: &str,
        hash: &str,
        allow: bool,
        reply: &SyncSender<Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        let card = self.cards(user).into_iter().find(|card| card.hash == hash);
        let Some(card) = card else {
            let detail = "there is no such card of yours, it was answered, or it is stale: look at the list again";
            return Err(Refusal::Invalid { field: "card".into(), detail: detail.into() });
        };
        self.says(card.pid, user, Says::Allow(card.key, allow), reply)
    }

    /// A message of somebody's.
    pub(super) fn mail(
        &mut self,
        pid: Pid,
        user: &str,
        text: String,
        reply: &SyncSender<Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        let invalid = |why: &str| Refusal::Invalid { field: "pid".into(), detail: why.into() };
        let Some(life) = self.life(pid) else {
            return Err(invalid("there is no such process, or it reads no messages"));
        };
        let tenant = life.program.request.tenant.clone();
        let message = Message::new(Role::User, text, label_of(user, life));
        let then = Then::Sent(reply.clone());
        self.deliver(Pid(0), pid, &tenant, message, then).map_err(invalid)
    }
}

/// The label of what somebody says to a process.
fn label_of(user: &str, life: &Life) -> Label {
    let owner = &life.program.request.tenant;
    if user == owner {
        return Label::of(Sources::USER).for_reader(owner);
    }
    Label {
        origins: BTreeSet::from([format!("user {user:?}")]),
        // Whoever said it knows it.
        readers: Readers::Only(BTreeSet::from([owner.clone(), user.to_string()])),
        ..Label::of(Sources::OTHER_USER)
    }
}
