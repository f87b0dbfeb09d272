use super::*;

#[test]
fn who_looks_changes_nothing_and_a_node_sees_only_that_another_is_there() {
    let instance: InstanceRef =
        "acme/workers/i-00000001".parse().unwrap_or_else(|_| unreachable!());
    let wake = Request::WakeInstance { instance };
    let stats = Request::NodeStats {};
    let may = |request: &Request| Role::ALL.map(|role| role.may(request));
    assert_eq!(may(&wake), [true, false, false]);
    assert_eq!(may(&stats), [true, false, true]);
    assert_eq!(may(&Request::NodeInfo {}), [true, true, true]);
}

#[test]
fn pages_follow_each_other_and_end() {
    let all: Vec<u32> = (10..35).collect();
    let key = |number: &u32| number.to_string();
    let mut asked = PageOf { after: None, limit: 10 };
    let mut seen = Vec::new();
    loop {
        let page = Page::of(all.clone(), &asked, key);
        seen.extend(page.items);
        match page.next {
            Some(next) => asked.after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, all);
    assert_eq!(Page::of(all, &PageOf { after: Some("34".into()), limit: 3 }, key).items, [0; 0]);
}

#[test]
fn the_newest_generation_of_both_is_spoken() {
    assert_eq!(common_generation([2, 3], [1, 2]), Some(2));
    assert_eq!(common_generation([2, 3], [3, 9]), Some(3));
    assert_eq!(common_generation([2, 3], [4, 5]), None);
    assert_eq!(common_generation([2, 3], [3, 1]), None);
}

#[test]
fn a_code_is_read_back_and_no_other_number_is_one() {
    for code in Code::ALL {
        assert_eq!(Code::try_from(u16::from(code)), Ok(code));
    }
    assert!(Code::try_from(200).is_err());
}
