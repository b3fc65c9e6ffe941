"""The section `resources`: the nodes, processes and time of each stage's jobs."""


from jobs.quantities import clock, wall_time_s
from jobs.spec.fields import Count, CountOrZero, Gigabytes, Nodes, Section, WallTime
from jobs.spec.stages import STAGES

REPORT_S = 1800  # seconds that the job of a report may take, unless the spec says otherwise


class StageResources(Section):
    nodes: Nodes = 1
    """A range such as 1-4 takes as many nodes as the cluster grants."""
    gpus_per_node: CountOrZero = 0
    tasks_per_node: Count | None = None
    """null: one process per GPU, or one where there are none."""
    cpus_per_task: Count | None = None
    """Also the threads of a process, on which results on a CPU depend. null: one core; for a stage with GPUs, the number of
    cores in the cluster profile."""
    mem_gb: Gigabytes | None = None
    """Of each node; 0: all of the node's."""
    time: WallTime = "24:00:00"
    """As SLURM reads it: "2:30:00" is hours, "30:00" is minutes and seconds, 30 is minutes, "1-12" is a day and a half."""

    @property
    def tasks(self) -> int:
        """Processes on one node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def fewest_nodes(self) -> int:
        return int(str(self.nodes).partition("-")[0])

    @property
    def most_nodes(self) -> int:
        return int(str(self.nodes).rpartition("-")[2])

    @property
    def is_elastic(self) -> bool:
        """Whether the cluster may choose how many nodes to grant."""
        return self.fewest_nodes < self.most_nodes

    @property
    def ends(self) -> list["StageResources"]:
        """These resources with the most nodes and, where they are elastic, with the fewest."""
        return [self.model_copy(update={"nodes": nodes}) for nodes in dict.fromkeys((self.most_nodes, self.fewest_nodes))]

    @property
    def world_size(self) -> int:
        """Processes on all nodes, at most."""
        return self.most_nodes * self.tasks

    @property
    def minutes(self) -> int:
        """`time`, rounded up to minutes."""
        return -(-self.seconds // 60)

    @property
    def seconds(self) -> int:
        """`time` in seconds."""
        return wall_time_s(self.time) or 0

    @property
    def threads(self) -> int:
        """Threads of one process."""
        return self.cpus_per_task or 1


class ReportResources(Section):
    """Of the job that writes a study's report: one process."""

    cpus_per_task: Count | None = None
    mem_gb: Gigabytes | None = None
    time: WallTime | None = None
    """null: half an hour, or the longest time of the other stages if that is shorter."""


class Resources(Section):
    train: StageResources = StageResources()
    sample: StageResources = StageResources()
    evaluate: StageResources = StageResources()
    report: ReportResources = ReportResources()

    @property
    def of_report(self) -> StageResources:
        """What the report's job asks for."""
        longest = max(stage.seconds for stage in (self.train, self.sample, self.evaluate))
        return StageResources(cpus_per_task=self.report.cpus_per_task, mem_gb=self.report.mem_gb,
                              time=self.report.time or clock(min(longest, REPORT_S)))


def with_ends(resources: Resources, which: int) -> Resources:
    """Return `resources` with the most nodes of each stage (`which` 0), or with the fewest (-1)."""
    return Resources(**dict(resources) | {stage: getattr(resources, stage).ends[which] for stage in STAGES})
