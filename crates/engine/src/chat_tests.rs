use super::*;

#[test]
fn deep() {
    let nest = "{% set ns = namespace(x=1,y=1) %}{% for i in range(99000) %}{% set ns.x = [[[[[[[[[[ns.x]]]]]]]]]] %}{% set ns.y = [[[[[[[[[[ns.y]]]]]]]]]] %}{% if i == 21000 %}{% break %}{% endif %}{% endfor %}";
    for end in [
        "ok",
        "{{ ns.x }}",
        "{{ ns.x == ns.y }}",
        "{{ {ns.x: 1} }}",
        "{{ ns.x|tojson }}",
        "{{ [ns.x, ns.y]|sort }}",
        "{{ ns.x|string|length }}",
        "{{ [ns.x,ns.y]|unique|list|length }}",
        "{{ ns.x ~ '' }}",
        "{{ ns.x|safe }}",
        "{{ ns.x|pprint }}",
        "{{ ns.x|join }}",
        "{{ ns.q.q }}",
        "{{ ns.x + ns.y }}",
    ] {
        let t = ChatTemplate::new(&format!("{nest}{end}"), &BTreeMap::new(), &[]).unwrap();
        let r = t.render(&[], &RenderOptions::default());
        println!("{end} {:?}", r.map(|s| s.chars().take(20).collect::<String>()));
    }
}
