//! Lifecycle rules: one that is wanted, and those that would destroy the log.
//!
//! What is in the log is needed for as long as the log says so, whatever its age: no rule may expire an object of it, nor
//! move it to an archive that does not answer reads.

use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, ExpirationStatus, LifecycleRule,
    LifecycleRuleFilter, TransitionStorageClass,
};

use super::{Refusal, Setup};
use crate::limits;
use crate::report::Report;

const NAME: &str = "lifecycle";
const RULE: &str = "forebay-abort-unfinished-uploads";

/// What a rule does to the objects of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Deletes them.
    Expires,
    /// Puts them where no read finds them in time.
    Archives,
    Nothing,
}

impl Setup {
    /// Checks the bucket's rules, and adds the one that is wanted.
    pub(super) async fn lifecycle(&self, report: &mut Report) {
        let call = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket);
        let (mut rules, minimum) = match call.send().await.map_err(Refusal::of) {
            Ok(found) => (found.rules.unwrap_or_default(), found.transition_default_minimum_object_size),
            Err(refusal) if refusal.is(&["NoSuchLifecycleConfiguration"]) => (Vec::new(), None),
            Err(refusal) => return self.tell(report, NAME, "", Err(refusal)),
        };
        let ours = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        for rule in &rules {
            let id = rule.id.as_deref().unwrap_or("without a name");
            match effect(rule, &ours) {
                Effect::Expires => {
                    report.fail(
                        NAME,
                        format!("the rule '{id}' deletes records: remove it, or keep it off '{ours}'"),
                    );
                }
                Effect::Archives => {
                    report.fail(
                        NAME,
                        format!("the rule '{id}' archives records: remove it, or keep it off '{ours}'"),
                    );
                }
                Effect::Nothing => {}
            }
        }
        let days = limits::BUCKET_ABORT_DAYS;
        if rules.iter().any(|rule| aborts(rule, &ours)) {
            return report.ok(NAME, "unfinished uploads are removed");
        }
        if self.would(report, NAME, &format!("remove unfinished uploads after {days} days")) {
            return;
        }
        rules.retain(|rule| rule.id.as_deref() != Some(RULE));
        let wanted = wanted(&ours).and_then(|wanted| {
            BucketLifecycleConfiguration::builder().set_rules(Some(rules)).rules(wanted).build()
        });
        let done = match wanted {
            Ok(wanted) => {
                let call = self.client.put_bucket_lifecycle_configuration().bucket(&self.bucket);
                let call = call.set_transition_default_minimum_object_size(minimum);
                call.lifecycle_configuration(wanted).send().await.map(drop).map_err(Refusal::of)
            }
            Err(error) => Err(Refusal::of_text(error.to_string())),
        };
        self.tell(report, NAME, &format!("unfinished uploads are removed after {days} days now"), done);
    }
}

fn wanted(prefix: &str) -> Result<LifecycleRule, aws_sdk_s3::error::BuildError> {
    let abort =
        AbortIncompleteMultipartUpload::builder().days_after_initiation(limits::BUCKET_ABORT_DAYS).build();
    LifecycleRule::builder()
        .id(RULE)
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
        .abort_incomplete_multipart_upload(abort)
        .build()
}

/// Tells what a rule does to objects below a prefix.
fn effect(rule: &LifecycleRule, ours: &str) -> Effect {
    let of_rule = prefix(rule);
    let meets = of_rule.starts_with(ours) || ours.starts_with(of_rule);
    // The log tags nothing.
    if rule.status != ExpirationStatus::Enabled || !meets || wants_tags(rule) {
        return Effect::Nothing;
    }
    if rule
        .expiration
        .as_ref()
        .is_some_and(|expiration| expiration.days.is_some() || expiration.date.is_some())
    {
        return Effect::Expires;
    }
    let archive = |class: &TransitionStorageClass| {
        matches!(class, TransitionStorageClass::Glacier | TransitionStorageClass::DeepArchive)
    };
    let classes = rule.transitions().iter().filter_map(|transition| transition.storage_class.as_ref());
    if classes.into_iter().any(archive) { Effect::Archives } else { Effect::Nothing }
}

/// Tells whether a rule removes unfinished uploads below a prefix soon enough.
fn aborts(rule: &LifecycleRule, ours: &str) -> bool {
    let days = rule.abort_incomplete_multipart_upload.as_ref().and_then(|abort| abort.days_after_initiation);
    rule.status == ExpirationStatus::Enabled
        && ours.starts_with(prefix(rule))
        && !wants_tags(rule)
        && days.is_some_and(|days| days <= limits::BUCKET_ABORT_DAYS)
}

fn prefix(rule: &LifecycleRule) -> &str {
    let filter = rule.filter.as_ref();
    let of_filter = filter.and_then(|filter| filter.prefix.as_deref());
    let of_both = filter.and_then(|filter| filter.and.as_ref()?.prefix.as_deref());
    #[expect(deprecated, reason = "rules of long ago have their prefix there")]
    let of_rule = rule.prefix.as_deref();
    of_filter.or(of_both).or(of_rule).unwrap_or_default()
}

fn wants_tags(rule: &LifecycleRule) -> bool {
    rule.filter.as_ref().is_some_and(|filter| {
        filter.tag.is_some() || filter.and.as_ref().is_some_and(|both| !both.tags().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::builders::LifecycleRuleBuilder;
    use aws_sdk_s3::types::{LifecycleExpiration, LifecycleRuleAndOperator, Tag, Transition};

    use super::*;

    fn rule(prefix: &str) -> LifecycleRuleBuilder {
        let filter = LifecycleRuleFilter::builder().prefix(prefix).build();
        LifecycleRule::builder().status(ExpirationStatus::Enabled).filter(filter)
    }

    fn expiring(builder: LifecycleRuleBuilder) -> LifecycleRule {
        builder.expiration(LifecycleExpiration::builder().days(30).build()).build().unwrap()
    }

    #[test]
    fn a_rule_that_could_delete_what_lies_below_the_prefix_is_found() {
        for (prefix, expected) in [
            ("", Effect::Expires),
            ("events/", Effect::Expires),
            ("ev", Effect::Expires),
            ("events/shards/", Effect::Expires),
            ("event-logs/", Effect::Nothing),
            ("other/", Effect::Nothing),
        ] {
            assert_eq!(effect(&expiring(rule(prefix)), "events/"), expected, "{prefix}");
        }
        assert_eq!(effect(&expiring(rule("anything/")), ""), Effect::Expires);
        let off = expiring(rule("").status(ExpirationStatus::Disabled));
        assert_eq!(effect(&off, "events/"), Effect::Nothing);
    }

    #[test]
    fn a_rule_for_what_the_log_never_has_does_no_harm() {
        let tag = Tag::builder().key("temporary").value("yes").build().unwrap();
        let both = LifecycleRuleAndOperator::builder().prefix("events/").tags(tag).build();
        let tagged = rule("").filter(LifecycleRuleFilter::builder().and(both).build());
        assert_eq!(effect(&expiring(tagged), "events/"), Effect::Nothing);
        let markers = LifecycleExpiration::builder().expired_object_delete_marker(true).build();
        let markers = rule("").expiration(markers).build().unwrap();
        assert_eq!(effect(&markers, "events/"), Effect::Nothing);
    }

    #[test]
    fn an_archive_is_told_from_a_cheaper_class_that_answers() {
        let moved = |class: TransitionStorageClass| {
            let transition = Transition::builder().days(30).storage_class(class).build();
            effect(&rule("").transitions(transition).build().unwrap(), "events/")
        };
        assert_eq!(moved(TransitionStorageClass::DeepArchive), Effect::Archives);
        assert_eq!(moved(TransitionStorageClass::StandardIa), Effect::Nothing);
    }

    #[test]
    fn the_rule_that_is_added_is_recognised_and_does_no_harm() {
        for ours in ["", "team/events/"] {
            let wanted = wanted(ours).unwrap();
            assert!(aborts(&wanted, ours));
            assert_eq!(effect(&wanted, ours), Effect::Nothing);
        }
        assert!(!aborts(&wanted("other/").unwrap(), "events/"));
    }
}
