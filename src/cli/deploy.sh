
say() { printf '\n== %s\n' "$*" >&2; }

# What was made a moment ago may not be known everywhere yet.
patiently() {
    for _ in 1 2 3; do
        "$@" >/dev/null && return
        sleep 5
    done
    "$@" >/dev/null
}

# account ID DISPLAY_NAME
account() {
    gcloud iam service-accounts describe "$1@$DOMAIN" --project="$PROJECT" >/dev/null 2>&1 ||
        gcloud iam service-accounts create "$1" --project="$PROJECT" --display-name="$2"
}

# grant_secret ROLE PROJECT SECRET [FLAG...]
grant_secret() {
    local role=$1 project=$2 secret=$3
    shift 3
    patiently gcloud secrets add-iam-policy-binding "$secret" --project="$project" "$@" \
        --member="serviceAccount:$RUNNER@$DOMAIN" --role="$role"
}

# secret_is_there PROJECT SECRET [FLAG...]
secret_is_there() {
    local project=$1 secret=$2
    shift 2
    gcloud secrets describe "$secret" --project="$project" "$@" >/dev/null 2>&1
}

# secret_has_value PROJECT SECRET [FLAG...]
secret_has_value() {
    local project=$1 secret=$2 newest
    shift 2
    newest=$(gcloud secrets versions list "$secret" --project="$project" "$@" \
        --filter=state=enabled --limit=1 --format='value(name)')
    [ -n "$newest" ]
}

# build FOLDER IMAGE [FLAG...]
build() {
    local folder=$1 image=$2 id status
    shift 2
    # gcloud itself ends with 1 where it may not show the build's log, though all goes well.
    id=$(gcloud builds submit "$folder" --project="$PROJECT" --tag="$image" --async --format='value(id)' "$@")
    echo "build $id makes $image" >&2
    while status=$(gcloud builds describe "$id" --project="$PROJECT" --format='value(status)'); do
        case $status in
            SUCCESS) return ;;
            PENDING | QUEUED | WORKING) sleep 5 ;;
            *) break ;;
        esac
    done
    echo "build $id did not end well ($status); see: gcloud builds log $id --project=$PROJECT" >&2
    return 1
}

# alert NAME POLICY
alert() {
    local policy
    policy=$(gcloud alpha monitoring policies list --project="$PROJECT" \
        --filter="display_name=\"$1\"" --format='value(name)')
    [ -n "$policy" ] || gcloud alpha monitoring policies create --project="$PROJECT" --policy="$2"
}

say "the APIs"
gcloud services enable --project="$PROJECT" \
    artifactregistry.googleapis.com bigquery.googleapis.com bigquerystorage.googleapis.com \
    cloudbuild.googleapis.com cloudscheduler.googleapis.com iam.googleapis.com \
    monitoring.googleapis.com run.googleapis.com secretmanager.googleapis.com
for project in "$DATASET_PROJECT" "$JOB_PROJECT"; do
    [ "$project" = "$PROJECT" ] ||
        gcloud services enable --project="$project" bigquery.googleapis.com bigquerystorage.googleapis.com
done

say "two accounts: one runs the job, one starts it"
account "$RUNNER" "drawoff: runs $JOB"
account "$STARTER" "drawoff: starts $JOB"

say "the secrets; values are typed, not shown, and go nowhere but to Secret Manager"
@SECRETS@

say "the dataset, and the right to write to it"
bq --project_id="$DATASET_PROJECT" --location="$LOCATION" mk --force --dataset "$DATASET_PROJECT:$DATASET"
# That of a dataset that was there already may be another.
location=$(bq --project_id="$DATASET_PROJECT" --format=json show --dataset "$DATASET_PROJECT:$DATASET" |
    sed -n 's/.*"location": *"\([^"]*\)".*/\1/p')
patiently bq --project_id="$JOB_PROJECT" --location="${location:-$LOCATION}" query --use_legacy_sql=false \
    "GRANT \`roles/bigquery.dataEditor\` ON SCHEMA \`$DATASET_PROJECT\`.\`$DATASET\` TO \"serviceAccount:$RUNNER@$DOMAIN\""
patiently gcloud projects add-iam-policy-binding "$JOB_PROJECT" --condition=None \
    --member="serviceAccount:$RUNNER@$DOMAIN" --role=roles/bigquery.jobUser

@IMAGE@

say "the job"
# Parallelism 0: all tasks at once, also where one execution is given more of them.
gcloud run jobs deploy "$JOB" --project="$PROJECT" --region="$REGION" --image="$IMAGE" \
    --service-account="$RUNNER@$DOMAIN" --args="$ARGUMENTS" --set-env-vars="$VARIABLES" \
    --tasks="$TASKS" --parallelism=0 --max-retries=3 --task-timeout="$TASK_TIMEOUT" \
    --cpu=1 --memory=512Mi
patiently gcloud run jobs add-iam-policy-binding "$JOB" --project="$PROJECT" --region="$REGION" \
    --member="serviceAccount:$STARTER@$DOMAIN" --role=roles/run.invoker

say "the schedule"
action=create
if gcloud scheduler jobs describe "$JOB" --project="$PROJECT" --location="$REGION" >/dev/null 2>&1; then
    action=update
fi
gcloud scheduler jobs "$action" http "$JOB" --project="$PROJECT" --location="$REGION" \
    --schedule="$SCHEDULE" --time-zone="$TIME_ZONE" --http-method=POST --max-retry-attempts=3 \
    --uri="https://run.googleapis.com/v2/projects/$PROJECT/locations/$REGION/jobs/$JOB:run" \
    --oauth-service-account-email="$STARTER@$DOMAIN"

say "alerts when an execution fails, or cannot be started"
alert "$JOB failed" "$FAILED"
alert "$JOB was not started" "$NOT_STARTED"

say "done; to run it now: gcloud run jobs execute $JOB --project=$PROJECT --region=$REGION --wait"
