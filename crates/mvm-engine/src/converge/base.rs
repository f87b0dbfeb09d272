//! Bases on the way of a start: whatever is wrong with one, the instance boots.

use mvm_core::{
    effect::{BaseAct, Effect, Jail},
    error::{Error, ErrorKind},
    event::EventKind,
    port::{GuestAct, GuestAnswer},
};

use super::Course;
use crate::run::Fault;

impl Course<'_> {
    /// What becomes of a failed act on a base; its own error where that is a failure of the start.
    pub(super) fn settle_base(
        &mut self,
        act: BaseAct,
        jail: &Jail,
        error: Error,
    ) -> Result<(), Fault> {
        match act {
            // A base makes the next start faster; this one goes on without.
            BaseAct::Take => Ok(self.tell(EventKind::BaseRefused, error.to_string())?),
            // Without room a boot has no place either.
            BaseAct::Load if error.kind != ErrorKind::Refused => {
                self.forsake_base(jail, error.to_string())
            }
            BaseAct::Load | BaseAct::Remove => Err(error.into()),
        }
    }

    /// Whether this was said to a clone that does not hear; then the next round boots.
    ///
    /// # Errors
    /// What stands in the way of that.
    pub(super) fn is_deaf_clone(
        &mut self,
        act: &GuestAct,
        answer: &Result<GuestAnswer, Error>,
    ) -> Result<bool, Fault> {
        let GuestAct::Configure { jail, .. } = act else { return Ok(false) };
        let is_clone = std::mem::take(&mut self.is_clone);
        match answer {
            Ok(GuestAnswer::Silent) | Err(_) if is_clone => {
                self.forsake_base(jail, "its clone does not answer".to_owned())?;
                Ok(true)
            }
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// What cannot be loaded, or comes to no life, is of no use to anybody: it goes, and this instance
    /// begins anew with a boot.
    fn forsake_base(&mut self, jail: &Jail, why: String) -> Result<(), Fault> {
        self.tell(EventKind::BaseRefused, why)?;
        let base = Effect::Base { act: BaseAct::Remove, jail: Box::new(jail.clone()) };
        for effect in [base, Effect::RemoveVmm(jail.instance.instance.clone())] {
            self.engine.ports.host.execute(&effect).map_err(Fault::last)?;
        }
        self.begins_anew = true;
        Ok(())
    }
}
