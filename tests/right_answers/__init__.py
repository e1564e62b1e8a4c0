"""Right answers to the exercises, written in other ways than the references: each check has to accept them all."""

from right_answers import (
    choose_ranks,
    comparison,
    compute_with_trains,
    costs,
    coupled_trains,
    cpd,
    lebedev,
    novikov,
    review,
    run_a_study,
    scheme,
    small_machine,
    start_here,
    tensor_algebra,
    tensor_layers,
    tensor_train,
    tucker,
)

LESSONS = (
    start_here,
    tensor_algebra,
    cpd,
    tucker,
    tensor_train,
    compute_with_trains,
    coupled_trains,
    tensor_layers,
    costs,
    lebedev,
    novikov,
    run_a_study,
    review,
    choose_ranks,
    comparison,
    scheme,
    small_machine,
)
RIGHT = {name: answers for lesson in LESSONS for name, answers in lesson.RIGHT.items()}
