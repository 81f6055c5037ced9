"""An S3 that says what a test tells it to."""

import boto3
import pytest
from botocore.stub import Stubber


@pytest.fixture
def s3():
    client = boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    with Stubber(client) as stub:
        yield client, stub
