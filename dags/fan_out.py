"""One mapped task on each backend, and a join: small items on workers, large ones in pods."""

from airflow.sdk import dag, task


@dag(schedule=None, tags=["hybrid", "demo"], doc_md=__doc__)
def fan_out():
    @task
    def split() -> list[int]:
        return list(range(1, 4))

    @task
    def square(number: int) -> int:
        return number * number

    @task(queue="kubernetes")
    def cube(number: int) -> int:
        return number**3

    @task
    def join(squares: list[int], cubes: list[int]) -> int:
        total = sum(squares) + sum(cubes)
        print(f"{list(squares)} and {list(cubes)} make {total}")
        return total

    numbers = split()
    join(square.expand(number=numbers), cube.expand(number=numbers))


fan_out()
