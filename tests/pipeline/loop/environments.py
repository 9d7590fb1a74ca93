"""A small environment, and ways to change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + "d" * 64
IMAGE = f"harbor.example.org/flops/server:2026-01-31-14-05-09@{DIGEST}"

CRON_JOB = f"""\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: global-server
spec:
  schedule: "*/5 * * * *"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      activeDeadlineSeconds: 240
      template:
        metadata:
          labels: {{app: server}}
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 20
          securityContext: {{runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001}}
          containers:
            - name: global-server
              image: {IMAGE}
              args: [round]
              ports: [{{name: fleet, containerPort: 8080}}]
              env:
                - {{name: FLOPS_IMAGE, value: {IMAGE}}}
                - name: FLOPS_CONFIG_COMMIT
                  valueFrom: {{fieldRef: {{fieldPath: "metadata.annotations['flops.io/config-commit']"}}}}
              envFrom: [{{secretRef: {{name: tracking}}}}]
              resources: {{limits: {{memory: 2Gi, cpu: 500m}}}}
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities: {{drop: [ALL]}}
              volumeMounts:
                - {{name: federation, mountPath: /etc/federation, readOnly: true}}
                - {{name: tls, mountPath: /etc/tls, readOnly: true}}
                - {{name: scratch, mountPath: /tmp}}
          volumes:
            - {{name: federation, configMap: {{name: federation}}}}
            - {{name: tls, secret: {{secretName: server-tls, defaultMode: 0440}}}}
            - {{name: scratch, emptyDir: {{sizeLimit: 1Gi}}}}
"""

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: global-server
spec:
  type: NodePort
  selector: {app: server}
  ports: [{name: fleet, port: 8080, targetPort: fleet, nodePort: 30880}]
"""

KUSTOMIZATION = """\
resources: [cronjob.yaml, service.yaml]
configMapGenerator:
  - name: federation
    files: [federation.toml]
"""

FILES = {
    "cronjob.yaml": CRON_JOB,
    "service.yaml": SERVICE,
    "kustomization.yaml": KUSTOMIZATION,
    "federation.toml": 'task = "digits"\n',
}


def write(root: Path, **changes: str | None) -> Path:
    """Write the environment `dev`; files by name, with double underscores for dots, are other than usual."""
    files = {**FILES, **{name.replace("__", "."): text for name, text in changes.items()}}
    folder = root / "dev"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if text is not None:
            (folder / name).write_text(text)
    return root
