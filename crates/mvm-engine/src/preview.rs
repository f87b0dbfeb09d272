//! What an operation would do: its own checks in a transaction that is rolled back, and the plan.

use mvm_core::{
    effect::Effect,
    error::Error,
    id::{InstanceRef, PoolRef, VolumeId},
    instance::{Drain, Instance, Want},
    operation::Operation,
    plan::{self, Step, pool::Assignment},
    publish::Publish,
    state::Move,
    template::Template,
    units::{Generation, Mib},
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Context, Engine},
    operate::{
        change,
        instance::{HasVolume, Precedence, Wish, legal},
        living, pool,
        publish::Publishing,
        rotate::rotation,
        scale::{Scale, in_reach},
        template::may_delete,
        tenant::{self, NewTenant},
        volume::removal,
    },
    outcome::{Acted, Deferral, Failed, Made, Removal},
    store::records,
};

/// What would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The record that would be made or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
    /// The next steps of the instance; more follow from what they bring about.
    pub steps: Vec<Step>,
    /// The changes of a pool's instances.
    pub assignments: Vec<Assignment>,
    /// What would be destroyed with the subject.
    pub destroyed: Vec<InstanceRef>,
    /// What would be removed because nothing uses it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Removal>,
    /// The operations that would be done, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Acted>,
    /// What would not be done, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failed>,
    /// What would be left alone, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deferrals: Vec<Deferral>,
    /// What a person should know about the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Engine {
    #[expect(clippy::too_many_lines, reason = "one arm for every operation")]
    pub(crate) fn preview(&self, cx: &Context, operation: &Operation) -> Result<Preview, Error> {
        match operation.clone() {
            Operation::TenantCreate { tenant, net, subnet, quotas, keyed } => {
                self.preview_tenant(cx, &NewTenant { tenant, net, subnet, quotas, keyed })
            }
            Operation::TenantUpdate { tenant, quotas, policy } => {
                let policy = policy.as_ref();
                let made =
                    self.rehearse(|tx| self.tenant_change(tx, cx, &tenant, &quotas, policy))?;
                Ok(Preview { made: Some(Made::Tenant(made)), ..Preview::default() })
            }
            Operation::TenantSecretsSet { tenant, source } => {
                self.preview_secrets(cx, &tenant, Some(&source), false)
            }
            Operation::TenantSecretsRotate { tenant, source, live } => {
                self.preview_secrets(cx, &tenant, source.as_ref(), live)
            }
            Operation::TenantDestroy { tenant, force, volumes: _ } => {
                self.rehearse(|tx| tenant::begin(tx, &tenant, force))?;
                self.preview_destroy(tenant.as_str())
            }
            Operation::TenantKeyRotate { tenant } => {
                self.refuse_given_key(&tenant)?;
                self.preview_effects(|tx| rotation(tx, &tenant))
            }
            Operation::PoolCreate(ask) => {
                pool::valid(&ask)?;
                let made = self.rehearse(|tx| self.pool_record(tx, cx, &ask))?;
                Ok(Preview { made: Some(Made::Pool(Box::new(made))), ..Preview::default() })
            }
            Operation::PoolUpdate { pool, change } => {
                let made = self.rehearse(|tx| self.record_change(tx, cx, &pool, &change))?;
                let notes = change::notes(&change);
                Ok(Preview { made: Some(Made::Pool(Box::new(made))), notes, ..Preview::default() })
            }
            Operation::PoolBuild { pool, timeout: _, rebuild: _ } => {
                let (_, pool) = self.within(|tx| living(tx, &pool))?;
                Ok(Preview { made: Some(Made::Pool(Box::new(pool))), ..Preview::default() })
            }
            Operation::PoolRollback { pool, revision } => {
                let (made, image) =
                    self.rehearse(|tx| self.record_rollback(tx, cx, &pool, &revision))?;
                let steps = vec![Step::Do(Effect::EnsureRevision { pool, image })];
                Ok(Preview { made: Some(Made::Pool(Box::new(made))), steps, ..Preview::default() })
            }
            Operation::PoolRoll { pool, pace, on_failure: _ } => self.preview_roll(&pool, pace),
            Operation::PoolGc { pool, keep } => {
                let removals = self.weighed(&self.pool_litter(&pool, keep)?)?;
                Ok(Preview { removals, ..Preview::default() })
            }
            Operation::NodeGc { keep } => {
                let removals = self.weighed(&self.node_litter(keep)?)?;
                Ok(Preview { removals, ..Preview::default() })
            }
            Operation::PoolScale { pool, running, warm, sleeping, no_wait } => {
                self.preview_scale(cx, &Scale { pool, running, warm, sleeping }, no_wait)
            }
            Operation::PoolDestroy { pool, force, volumes: _ } => {
                self.within(|tx| pool::may_go(tx, &pool, force))?;
                self.preview_destroy(&pool.to_string())
            }
            Operation::InstanceCreate { pool, publish, volume } => {
                self.preview_instance(cx, &pool, &publish, volume.as_ref())
            }
            Operation::InstancePublish { instance, publish } => {
                self.preview_ports(cx, &instance, &publish, Publishing::Begin)
            }
            Operation::InstanceUnpublish { instance, publish } => {
                self.preview_ports(cx, &instance, &publish, Publishing::End)
            }
            Operation::InstanceGrow { instance, data_disk } => {
                self.preview_growth(&instance, data_disk)
            }
            Operation::InstanceDestroy { instance, volumes } => {
                let wish = self.wish(cx, &instance, Move::Destroy, Drain::Ask)?;
                self.preview_wish(&Wish { volumes, ..wish })
            }
            Operation::VolumeRemove { volume, wipe } => {
                self.preview_effects(|tx| Ok(vec![removal(tx, &volume, wipe)?]))
            }
            Operation::TemplateCreate(spec) => {
                spec.validate()?;
                self.preview_template(|tx| self.template_record(tx, cx, &spec))
            }
            Operation::TemplateBuild { template, .. } => {
                self.preview_template(|tx| records::template(tx, &template))
            }
            Operation::TemplatePull(pulled) => {
                self.preview_template(|tx| self.template_adopt(tx, cx, &pulled))
            }
            Operation::TemplateDelete { template } => {
                self.rehearse(|tx| may_delete(tx, &template))?;
                let made = Some(Made::Removed(format!("template {template}")));
                Ok(Preview { made, ..Preview::default() })
            }
            Operation::AgentReconcile { desired } => self.preview_reconcile(&desired),
            Operation::InstanceMove { instance, wish, drain } => {
                self.preview_move(cx, &instance, wish, drain)
            }
        }
    }

    fn rehearse<T>(
        &self,
        work: impl FnMut(&mut dyn mvm_core::port::Transaction) -> Result<T, Error>,
    ) -> Result<T, Error> {
        records::rehearse(&*self.ports.store, work)
    }

    fn preview_template(
        &self,
        work: impl FnMut(&mut dyn mvm_core::port::Transaction) -> Result<Template, Error>,
    ) -> Result<Preview, Error> {
        let made = Some(Made::Template(Box::new(self.rehearse(work)?)));
        Ok(Preview { made, ..Preview::default() })
    }

    fn preview_effects(
        &self,
        work: impl FnMut(&mut dyn mvm_core::port::Transaction) -> Result<Vec<Effect>, Error>,
    ) -> Result<Preview, Error> {
        let steps = self.rehearse(work)?.into_iter().map(Step::Do).collect();
        Ok(Preview { steps, ..Preview::default() })
    }

    fn preview_growth(&self, instance: &InstanceRef, to: Mib) -> Result<Preview, Error> {
        let record = self.rehearse(|tx| self.admit_growth(tx, instance, to))?;
        let seen = self.ports.host.observe_instance(&record)?;
        let steps = plan::instance::plan(&record, &seen, Generation(0));
        let made = Some(Made::Instance(Box::new(record)));
        Ok(Preview { made, steps, ..Preview::default() })
    }

    fn preview_tenant(&self, cx: &Context, ask: &NewTenant) -> Result<Preview, Error> {
        tenant::valid(ask)?;
        let remnants = self.remnants()?;
        let made = self.rehearse(|tx| self.tenant_allocate(tx, cx, ask, &remnants))?;
        let mut steps: Vec<Step> = self.tenant_missing(&made)?.into_iter().map(Step::Do).collect();
        steps.push(Step::SyncFirewall);
        Ok(Preview { made: Some(Made::Tenant(made)), steps, ..Preview::default() })
    }

    fn preview_destroy(&self, prefix: &str) -> Result<Preview, Error> {
        let all = self.within(|tx| records::list::<Instance>(tx, prefix))?;
        let destroyed = all.into_iter().map(|one| one.instance).collect();
        Ok(Preview { destroyed, ..Preview::default() })
    }

    fn preview_scale(&self, cx: &Context, ask: &Scale, no_wait: bool) -> Result<Preview, Error> {
        let (pool, instances) = self.rehearse(|tx| {
            let pool = self.record_counts(tx, cx, ask, no_wait)?;
            Ok((pool, records::list::<Instance>(tx, &ask.pool.to_string())?))
        })?;
        let assignments = if no_wait {
            Vec::new()
        } else {
            let instances = in_reach(instances, Precedence::of(&cx.actor));
            plan::pool::assign(&instances, pool.desired_counts, self.ports.clock.now())
        };
        Ok(Preview { made: Some(Made::Pool(Box::new(pool))), assignments, ..Preview::default() })
    }

    fn preview_ports(
        &self,
        cx: &Context,
        id: &InstanceRef,
        ports: &[Publish],
        what: Publishing,
    ) -> Result<Preview, Error> {
        self.refuse_new(id, ports, what)?;
        let made = self.rehearse(|tx| self.record_ports(tx, cx, id, ports, what))?;
        let steps = vec![Step::SyncFirewall];
        Ok(Preview { made: Some(Made::Instance(Box::new(made))), steps, ..Preview::default() })
    }

    fn preview_instance(
        &self,
        cx: &Context,
        pool: &PoolRef,
        ports: &[Publish],
        volume: Option<&VolumeId>,
    ) -> Result<Preview, Error> {
        self.refuse_taken(ports)?;
        let made = self.rehearse(|tx| self.instance_allocate(tx, cx, pool, ports, volume))?;
        let steps = vec![Step::SyncFirewall];
        Ok(Preview { made: Some(Made::Instance(Box::new(made))), steps, ..Preview::default() })
    }

    fn preview_move(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        wish: Move,
        drain: Drain,
    ) -> Result<Preview, Error> {
        self.preview_wish(&self.wish(cx, instance, wish, drain)?)
    }

    fn preview_wish(&self, wish: &Wish) -> Result<Preview, Error> {
        let instance = &wish.instance;
        let capacity = self.capacity()?;
        let (record, generation) = self.within(|tx| {
            Ok((records::instance(tx, instance)?, records::network_generation(tx)?))
        })?;
        legal(&record, wish)?;
        let record = if record.in_flight() && wish.want != Want::Destroyed {
            record
        } else {
            let seen = self.ports.host.observe_instance(&record)?;
            self.admit_disk(&record, Some(&seen), wish.want)?;
            let has = HasVolume::seen(&record, Some(&seen));
            self.rehearse(|tx| self.admit_wish(tx, &record, wish, capacity, has))?
        };
        let seen = self.ports.host.observe_instance(&record)?;
        let steps = plan::instance::plan(&record, &seen, generation);
        Ok(Preview { steps, ..Preview::default() })
    }
}
