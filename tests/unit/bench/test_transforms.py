from bench import transforms


def test_every_task_is_work_that_can_be_measured():
    tasks = list(transforms.measured_tasks())
    assert len({task.name for task in tasks}) == len(tasks) == 15
    assert all(task.took_us() >= 0 for task in tasks)
    assert {task.events for task in tasks} <= {515, 516}


def test_missed_limit_is_reported_and_ends_in_an_error(monkeypatch, capsys):
    slow, fast = (
        transforms.Task(name, lambda: sum(range(2000)), 1, limit_us)
        for name, limit_us in [("slow", 0.0), ("fast", 1e9)]
    )
    monkeypatch.setattr(transforms, "measured_tasks", lambda: [slow, fast])
    assert transforms.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "missed: slow"
    monkeypatch.setattr(transforms, "measured_tasks", lambda: [fast])
    assert transforms.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "every limit is met"
